"""A choice for one layer is for that layer alone: every word, beside every usual precision, and beside every other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import graphopt
from graphopt import Recipe
from graphopt.compress.choices import CHOICES, FLOAT16, QUANTIZED, STORED16, chosen_for
from graphopt.errors import OptionError
from graphopt.options import Target
from graphopt.passes.quantize import stage
from tests.recipe.nets import network, products, samples

QUICK: dict[str, Any] = {
    "rounding": False, "correct_bias": False, "equalize": False, "per_channel_activations": False, "speed": False,
    "min_sqnr": -np.inf, "min_top1": 0.0,
}  # fmt: skip
"""Options that leave every layer where it was placed, in little time."""
USUAL: dict[str, dict[str, Any]] = {
    "static int8": {"quantize": graphopt.Quantize("static", **QUICK)},
    "static int4": {"quantize": graphopt.Quantize("static", weight_type="int4", **QUICK)},
    "dynamic": {"quantize": graphopt.Quantize("dynamic", **QUICK)},
    "weights8": {"quantize": graphopt.Quantize("weights", **QUICK)},
    "weights4": {"quantize": graphopt.Quantize("weights", weight_type="int4", **QUICK)},
    "float16": {"precision": graphopt.Float16(min_sqnr=-np.inf)},
    "float32": {},
}
"""Options of the stages by what layers that nobody names become."""


def made(usual: str, layers: dict[str, str], model: onnx.ModelProto | None = None) -> graphopt.Result:
    recipe = Recipe(**USUAL[usual], target=Target(runtime="onnxruntime"), layers=layers)
    data = {"x": np.random.default_rng(1).standard_normal((8, 32)).astype("f4")}
    return graphopt.optimize(model or products(), recipe=recipe, calibration=data, validate=False)


BESIDE = [
    (usual, word)
    for usual in USUAL
    for word in CHOICES
    if (usual, word) != ("float32", "float32")  # which asks for nothing
    and not (usual == "float16" and word in QUANTIZED)  # which asks for both by name
]


@pytest.mark.parametrize(("usual", "word"), BESIDE)
def test_what_is_not_named_keeps_the_usual_precision(usual, word):
    result = made(usual, {"second": word})
    expected = usual
    if usual == "float16" and word in (FLOAT16, STORED16):
        expected = "float32"  # those named are all
    told = result.recipe.layers
    assert told["second"] == word
    assert {told.get(name, "float32") for name in ("first", "third", "fourth")} == {expected}


PAIRS = [pair for pair in permutations(CHOICES, 2) if pair != (FLOAT16, STORED16)]
FEW = [("static int4", "static int3"), ("static int2", "weights3"), ("weights4", "weights2"), ("dynamic", "float16")]


@pytest.mark.parametrize(
    ("one", "other"), [pytest.param(*p, marks=() if p in FEW else pytest.mark.slow) for p in PAIRS]
)
def test_two_choices_do_not_mix(one, other):
    result = made("static int8", {"second": one, "fourth": other})
    told = result.recipe.layers
    assert (told["second"], told["fourth"]) == (one, other)
    assert {told["first"], told["third"]} == {"static int8"}
    again = graphopt.optimize(products(), recipe=result.recipe, calibration={
        "x": np.random.default_rng(1).standard_normal((8, 32)).astype("f4")}, validate=False)  # fmt: skip
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_every_width_of_stored_weights_goes_into_one_model():
    result = made("weights8", {"first": "weights2", "second": "weights4", "third": "weights3"})
    bits = [a.i for n in result.model.graph.node if n.op_type == "MatMulNBits" for a in n.attribute if a.name == "bits"]
    kinds = [t.data_type for t in result.model.graph.initializer if list(t.dims) == [32, 32]]
    assert bits == [2, 4, 4] and kinds == [TensorProto.INT8]


@pytest.mark.parametrize("refits", [True, False])
def test_a_layer_of_few_bits_leaves_the_others_on_eight(refits):
    quick = {} if refits else QUICK
    quantize = graphopt.Quantize("static", **{**quick, "speed": False}, layers={"second": "static int4"})
    result = graphopt.optimize(network(), quantize=quantize, calibration=samples())
    kinds = {t.name[0]: t.data_type for t in result.model.graph.initializer if t.name in {f"{n}_codes" for n in "abcd"}}
    assert kinds == {"a": TensorProto.INT8, "b": TensorProto.INT4, "c": TensorProto.INT8, "d": TensorProto.INT8}
    assert "(1 of 4 as int4)" in str(result.report.stages[0].summary)
    again = graphopt.optimize(network(), recipe=result.recipe, calibration=samples())
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_a_layer_that_must_stay_float32_leaves_the_others_to_float16():
    recipe = Recipe(precision=graphopt.Float16(), layers={"second": "float32"})
    result = graphopt.optimize(network(), recipe=recipe, calibration=samples())
    kinds = {t.name[0]: t.data_type for t in result.model.graph.initializer if len(t.dims) > 1}
    assert kinds["b"] == TensorProto.FLOAT and {kinds[n] for n in "acd"} == {TensorProto.FLOAT16}


def test_bits_that_a_target_cannot_store_are_one_line():
    recipe = Recipe(layers={"second": "weights3"})
    with pytest.raises(OptionError, match=r"^quantize: layers: second cannot be weights3: .* stored in 8 bits") as told:
        graphopt.optimize(products(), recipe=recipe)
    assert "\n" not in str(told.value)


def test_a_misspelt_layer_of_float16_is_one_line():
    for given in (
        {"precision": graphopt.Float16(layers={"secnd": "float32"})},
        {"recipe": Recipe(layers={"secnd": "float16"})},
    ):
        with pytest.raises(OptionError, match=r"^precision: layers: the model has no 'secnd' .did you mean second"):
            graphopt.optimize(products(), **given)


def test_what_a_layer_cannot_be_is_refused_where_it_is_all_of_its_mode():
    with pytest.raises(OptionError, match=r"^quantize: layers: third cannot be dynamic: onnxruntime is slow at conv"):
        graphopt.optimize(network(), recipe=Recipe(layers={"first": "weights8", "third": "dynamic"}))


def test_a_misspelt_layer_is_refused_before_data_are_read(monkeypatch):
    monkeypatch.setattr(stage, "calibrate_model", None)
    quantize = graphopt.Quantize("static", layers={"thrid": "float32"})
    with pytest.raises(OptionError, match=r"^quantize: layers: the model has no 'thrid' .did you mean third"):
        graphopt.optimize(network(), quantize=quantize, calibration=samples())


def test_a_misspelt_branch_is_one_line():
    layers = {"choise, then branch: inner": "weights8"}
    with pytest.raises(OptionError, match=r"the model has no 'choise, then branch'\Z"):
        graphopt.optimize(network(), recipe=Recipe(quantize=graphopt.Quantize("weights"), layers=layers))


def test_channels_alone_are_obeyed():
    result = graphopt.optimize(network(), recipe=Recipe(channels={"first": 11}), calibration=samples())
    assert {t.dims[0] for t in result.model.graph.initializer if t.name == "a"} == {11}
    assert result.recipe.channels["first"] == 11 and result.recipe.channels["second"] == 32


@dataclass(frozen=True)
class Named:
    """A node as far as choices read it."""

    origins: tuple[str, ...] = ()


def test_an_origin_counts_where_no_node_has_its_name():
    fused, conv, bias = Named(("gemm", "norm")), Named(("conv",)), Named(("conv", "other"))
    names = {fused: "fused", conv: "conv", bias: "Add"}
    layers = {"norm": "float16", "conv": "static int8"}
    assert chosen_for(names, layers) == {fused: "float16", conv: "static int8"}
    assert chosen_for(names, {"other": "dynamic", "Add": "float32"}) == {bias: "float32"}
    assert chosen_for(names, {"other": "dynamic"}) == {bias: "dynamic"}
