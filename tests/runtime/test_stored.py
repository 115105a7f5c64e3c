"""Weights that a file stores as codes are computed once where onnxruntime is faster so, with the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.machine.sessions import open_session, session_options
from graphopt.runtime.cache.manifest import COMPUTED
from graphopt.runtime.execute.ort_segment import OrtSegment
from graphopt.runtime.place.extract import COMPUTED_WEIGHTS


def _weights(name: str, shape: tuple[int, ...], axis: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """DequantizeLinear of int8 codes with a scale for each place on an axis."""
    rng = np.random.default_rng(len(name))
    codes = rng.integers(-127, 128, shape).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, shape[axis]).astype(np.float32)
    node = helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scales"], [name], axis=axis)
    return node, [numpy_helper.from_array(codes, f"{name}_codes"), numpy_helper.from_array(scales, f"{name}_scales")]


def _model(nodes: list[onnx.NodeProto], given: list[Any], x: tuple[Any, ...], rank: int) -> bytes:
    """y of x, f32."""
    graph = helper.make_graph(
        nodes, "stored", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{i}" for i in range(rank)])], given,
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def _conv() -> bytes:
    node, given = _weights("w", (16, 8, 3, 3), 0)
    return _model([node, helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], given, ("N", 8, 12, 12), 4)


def _product(inner: int, width: int, op: str = "MatMul") -> bytes:
    node, given = _weights("w", (inner, width), 1)
    return _model([node, helper.make_node(op, ["x", "w"], ["y"])], given, ("rows", inner), 2)


def _activations() -> bytes:
    """A Conv whose data are codes, too."""
    node, given = _weights("w", (16, 8, 3, 3), 0)
    given += [numpy_helper.from_array(np.float32(0.02), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]), node,
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]  # fmt: skip
    return _model(nodes, given, ("N", 8, 12, 12), 4)


def _is_computed(model: bytes) -> bool:
    return COMPUTED in graphopt.Session(model, 1, kernels=False).describe().verdict


def test_weights_of_convolutions_and_small_products_are_computed_once() -> None:
    assert _is_computed(_conv())
    assert _is_computed(_product(32, 32)) and _is_computed(_product(32, 32, "Gemm"))


def test_large_products_and_quantized_models_stay() -> None:
    """onnxruntime multiplies by large weights as they are stored, and knows codes of both operands as one product."""
    assert not _is_computed(_product(768, 768))
    assert not _is_computed(_activations())


@pytest.mark.parametrize("model", [_conv(), _product(32, 32)])
def test_computed_weights_give_the_results_of_dequantized_ones(model: bytes) -> None:
    x = np.random.default_rng(1).standard_normal((2, 8, 12, 12) if b"Conv" in model else (5, 32)).astype(np.float32)
    plain = open_session(model, session_options(optimize=False)).run(None, {"x": x})[0]
    for session in (graphopt.Session(model, 1), graphopt.Session(model, 1)):  # the second from what the first kept
        np.testing.assert_allclose(session.run(None, {"x": x})[0], plain, rtol=1e-5, atol=1e-5)


def test_a_segment_beside_kernels_computes_its_weights() -> None:
    """A large product on kernels, then a convolution."""
    first, given = _weights("v", (384, 384), 1)
    second, more = _weights("w", (16, 384, 1), 0)
    nodes = [
        first, helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        second, helper.make_node("Conv", ["t", "w"], ["y"]),
    ]  # fmt: skip
    model = _model(nodes, [*given, *more], ("N", "T", 384), 3)
    session = graphopt.Session(model, 1, kernels=True)
    (segment,) = [runner for runner in session._runners if isinstance(runner, OrtSegment)]
    assert session.regions and COMPUTED_WEIGHTS.encode() in segment._source
    x = np.random.default_rng(1).standard_normal((2, 24, 384)).astype(np.float32)
    plain = open_session(model, session_options(optimize=False)).run(None, {"x": x})[0]
    found = session.run(None, {"x": x})[0]
    assert np.abs(found - plain).max() <= 0.02 * np.abs(plain).max()  # kernels round the rows to 8 bits
