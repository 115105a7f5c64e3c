"""Training steps of this machine, with convolutions in blocks of channels, equal those in ONNX's operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.gradient import training_step
from graphopt.gradient.blocked import DOMAIN, block_size
from graphopt.gradient.folding import fold_batch_normalizations
from graphopt.gradient.prepare import prepare
from graphopt.gradient.tensor import Tensor, Writer
from graphopt.gradient.training import build_step
from graphopt.ir import DType, Graph, Model, Port, TensorType, Value
from graphopt.onnx_io import to_proto

from .checking import session

FASHION = Path(__file__).parents[2] / "models" / "fashion_cnn.onnx"
CASES: dict[str, tuple[tuple[int, ...], int, int, dict[str, Any]]] = {
    "dense": ((32, 16, 3, 3), 16, 2, {"pads": [1, 1, 1, 1]}),
    "few inputs": ((16, 3, 3, 5), 3, 1, {"pads": [1, 2, 1, 2], "strides": [2, 1]}),
    "grouped": ((32, 16, 3, 3), 32, 2, {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ((32, 1, 3, 3), 32, 3, {"group": 32, "pads": [1, 1, 1, 1]}),
    "depthwise, strided": ((16, 1, 3, 3), 16, 3, {"group": 16, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "depthwise, padded at one end": ((16, 1, 5, 3), 16, 3, {"group": 16, "pads": [0, 1, 1, 0], "strides": [2, 3]}),
    "depthwise, dilated": ((16, 1, 3, 3), 16, 3, {"group": 16, "dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    "depthwise, without padding": ((16, 1, 2, 2), 16, 2, {"group": 16, "strides": [3, 3]}),
}
"""Shape of the weights, input channels, blocks expected at least, attributes."""


def stepped(proto: Any, block: int, batch: int = 3) -> tuple[dict[str, Any], int]:
    """What one step of SGD takes from each weight, and the number of Convs in blocks."""
    step = build_step(proto, None, "mse", "sgd", block)
    made = to_proto(step.model)
    run, rng = session(made), np.random.default_rng(0)
    feeds: dict[str, Any] = {**step.weights, "step": np.array(0), "learning_rate": np.array(1, np.float32)}
    for given in run.get_inputs():
        if given.name not in feeds:
            shape = [d if isinstance(d, int) else batch for d in given.shape]
            feeds[given.name] = rng.standard_normal(shape).astype(np.float32)
    found = dict(zip((o.name for o in run.get_outputs()), run.run(None, feeds)))
    count = sum(node.domain == DOMAIN and node.op_type == "Conv" for node in made.graph.node)
    return {name: found[f"{name}.new"] - w for name, w in step.weights.items()}, count


def alike(ours: dict[str, Any], others: dict[str, Any]) -> None:
    assert ours.keys() == others.keys()
    for name, change in others.items():
        assert np.abs(change).max() > 0
        assert np.abs(ours[name] - change).max() < 2e-5 * max(np.abs(change).max(), 0.1), name


@pytest.mark.parametrize("sizes", [(3, 9, 11), ("N", 9, 11), ("N", "H", "W")], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_steps_in_blocks_equal_steps_in_onnx(name: str, sizes: tuple[Any, ...]) -> None:
    block = block_size()
    if not block:
        pytest.skip("onnxruntime has no blocked convolutions on this machine")
    shape, channels, least, attrs = CASES[name]
    rng = np.random.default_rng(1)
    w, b = (rng.standard_normal(s).astype(np.float32) for s in (shape, shape[:1]))
    first, last = (rng.standard_normal(s).astype(np.float32) for s in ((channels, channels, 1, 1), (4, shape[0], 1, 1)))
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["h"]),
        helper.make_node("Conv", ["h", "w", "b"], ["z"], **attrs),
        helper.make_node("Conv", ["z", "last"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (sizes[0], channels, *sizes[1:]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None if "H" in sizes else (sizes[0], 4, None, None))],
        [numpy_helper.from_array(v, n) for n, v in {"first": first, "w": w, "b": b, "last": last}.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if "H" in sizes:  # sizes of the target that nothing tells
        proto = onnx.shape_inference.infer_shapes(proto)
    plain = to_proto(build_step(proto, None, "y", "sgd").model)
    assert not any(node.domain for node in plain.graph.node)
    step = to_proto(build_step(proto, None, "y", "sgd", block).model)
    count = sum(node.domain == DOMAIN and node.op_type == "Conv" for node in step.graph.node)
    assert count >= (least if "H" not in sizes else 1)
    feeds = {
        "x": rng.standard_normal((3, channels, 9, 11)).astype(np.float32), "first": first, "w": w, "b": b,
        "last": last, "step": np.array(0), "learning_rate": np.array(1, np.float32),
    }  # fmt: skip
    results = [session(m).run([f"{n}.new" for n in ("first", "w", "b", "last")], feeds) for m in (plain, step)]
    ours, others = ({n: v - feeds[n] for n, v in zip(("first", "w", "b", "last"), r)} for r in results)
    alike(ours, others)


def test_a_step_of_the_fashion_cnn_in_blocks() -> None:
    block = block_size()
    if not block:
        pytest.skip("onnxruntime has no blocked convolutions on this machine")
    ours, count = stepped(FASHION, block)
    others, none = stepped(FASHION, 0)
    assert count > 12 and none == 0
    alike(ours, others)
    assert not any(node.domain for node in training_step(FASHION).graph.node)


def test_each_value_is_brought_into_blocks_once() -> None:
    block = block_size()
    if not block:
        pytest.skip("onnxruntime has no blocked convolutions on this machine")
    nodes = to_proto(build_step(FASHION, None, "mse", "sgd", block).model).graph.node
    read = [node.input[0] for node in nodes if node.domain == DOMAIN and node.op_type == "ReorderInput"]
    assert len(read) == len(set(read)) > 8


def test_frozen_statistics_become_part_of_the_weights_before_them() -> None:
    model = prepare(FASHION)
    norms = sum(node.op == "BatchNormalization" for node in model.graph)
    assert fold_batch_normalizations(model.graph) == norms > 10
    assert not any(node.op == "BatchNormalization" for node in model.graph)
    image = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)
    ours, original = (session(m).run(None, {"image": image})[0] for m in (to_proto(model), onnx.load(FASHION)))
    assert np.allclose(ours, original, rtol=1e-4, atol=1e-4)


def test_statistics_of_the_batch_are_not_folded() -> None:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((3, 2, 1, 1)), **{n: rng.random(3) + 1 for n in "gbmv"}}
    for outputs, also in ((["y"], []), (["y"], ["z"]), (["y", "m2", "v2"], [])):
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["z"]),
            helper.make_node("BatchNormalization", ["z", *"gbmv"], outputs, training_mode=int(len(outputs) > 1)),
        ]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 2, 4, 4))],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ["y", *also]],
            [numpy_helper.from_array(v.astype(np.float32), n) for n, v in arrays.items()],
        )  # fmt: skip
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        assert fold_batch_normalizations(prepare(proto).graph) == (outputs == ["y"] and not also)


def test_masks_of_this_machine_equal_comparisons() -> None:
    graph = Graph()
    model = Model(graph, {"": 18}, ir_version=8)
    values = [graph.add_input(Value(TensorType(DType.FLOAT, (6,)), name)) for name in "xy"]
    x, y = (Tensor(Writer(graph, 16), value) for value in values)
    masks = [x.positive(), x.same(y)]
    graph.set_outputs([m.value for m in masks], [Port(n, m.value.type) for n, m in zip(("positive", "same"), masks)])
    a = np.array([0, -1, 1e-30, 6, 6, np.inf], np.float32)
    b = np.array([0, 0, 1e-30, 6, np.nextafter(np.float32(6), 0), 6], np.float32)
    positive, same = session(to_proto(model)).run(None, {"x": a, "y": b})
    assert positive.tolist() == (a > 0).tolist()
    assert same.tolist() == (a == b).tolist()
