"""Equality of models that draw random numbers: both sides draw alike, or are not verified."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto as T

from graphopt.equivalence import compare
from graphopt.equivalence.drawn import draw_alike
from graphopt.equivalence.runnable import open_runnable
from graphopt.testing import assert_equivalent
from tests.equivalence.nets import f32, model, node


def random_normal(opset: int = 17, **attrs: float) -> onnx.ModelProto:
    nodes = [node("RandomNormalLike", "x", "r", **attrs), node("Add", "x r", "y"), node("Relu", "x", "z")]
    proto = model(nodes, [("x", T.FLOAT, [64])], [("y", T.FLOAT, [64]), ("z", T.FLOAT, [64])])
    proto.opset_import[0].version = opset
    return proto


def test_random_operators_of_old_opsets_leave_their_outputs_unverified():
    found = compare(random_normal(14), random_normal(14))
    assert found.status == "unverified"
    assert {o.name: o.status for o in found.outputs} == {"y": "unverified", "z": "equal"}
    assert compare(random_normal(14, seed=3.0), random_normal(14, seed=3.0)).status == "equal"


def speech(scale: float = 0.6, *, fold: bool = False, once: bool = False, name: str = "r") -> onnx.ModelProto:
    """A prior with noise, as in VITS: mean + noise · scale twice, of a length that is computed."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("RandomNormalLike", "m", name, **({"scale": scale} if fold else {})),
        node("RandomNormalLike", "m", "s"), node("Identity" if fold else "Mul", name if fold else f"{name} k", "n"),
        node("Add", "m n", "z"), node("Add", f"z {name if once else 's'}", "y"),
    ]  # fmt: skip
    ports = [("x", T.FLOAT, ["n", 8])], [("y", T.FLOAT, ["n", 6])]
    return model(nodes, *ports, {"w": f32(8, 6), "k": np.float32(scale)})


def test_random_operators_draw_alike_on_both_sides():
    found = assert_equivalent(speech(), speech(), min_power=0.9)
    assert found.samples == 4
    assert compare(speech(), speech(fold=True), power=False).status == "equal"
    assert compare(speech(), speech(name="renamed"), power=False).status == "equal"
    assert compare(speech(), speech(0.61), power=False).status == "different"
    assert compare(speech(), speech(once=True), power=False).status == "different"
    assert compare(random_normal(seed=3.0), random_normal(seed=4.0), power=False).status == "different"


@pytest.mark.parametrize(("op", "inputs", "attrs", "elem"), [
    ("RandomNormal", "", {"shape": [50, 60], "mean": 2.0}, T.FLOAT),
    ("RandomUniform", "", {"shape": [50, 60], "low": 2.0, "high": 3.0}, T.FLOAT),
    ("RandomUniformLike", "p", {"dtype": T.DOUBLE}, T.DOUBLE), ("Bernoulli", "p", {}, T.FLOAT),
    ("Multinomial", "p", {"sample_size": 300}, T.INT32), ("Dropout", "p ratio yes", {}, T.FLOAT),
    ("RandomNormalLike", "p", {"scale": 3.0}, T.FLOAT),
])  # fmt: skip
def test_every_random_operator_is_drawn_from_its_distribution(op: str, inputs: str, attrs: dict, elem: int):
    nodes = [node("Sigmoid", "x", "p"), node(op, inputs, "y", **attrs), node("Neg", "p", "z")]
    outputs = [("y", elem, None), ("z", T.FLOAT, None)]
    net = model(nodes, [("x", T.FLOAT, [5, 60])], outputs, {"ratio": np.float32(0.25), "yes": np.bool_(True)})
    assert compare(net, net, power=False).status == "equal"
    feeds = {"x": f32(5, 60)}
    theirs = open_runnable(net).session(optimize=False).run(feeds)["y"]
    ours = draw_alike(open_runnable(net), open_runnable(net))[0].session(optimize=False).run(feeds)["y"]
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    spread = float(theirs.std())
    assert abs(float(ours.mean()) - float(theirs.mean())) < 0.6 * spread and 0.6 < float(ours.std()) / spread < 1.6
