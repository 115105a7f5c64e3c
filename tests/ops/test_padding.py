"""Padding as onnxruntime applies it: a convolution with `auto_pad` equals the one with the resolved pads."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.ops import resolve_pads


def convolved(x: np.ndarray, weights: np.ndarray, **attributes: object) -> np.ndarray:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_is_that_of_onnxruntime(auto_pad: str) -> None:
    rng = np.random.default_rng(0)
    for size, kernel, stride, dilation in itertools.product((5, 8), (1, 2, 3), (1, 2, 3), (1, 2)):
        if auto_pad != "VALID" and dilation > 1:
            continue  # onnxruntime declines
        x = rng.normal(size=(1, 1, size, size + 1)).astype(np.float32)
        weights = rng.normal(size=(1, 1, kernel, 2)).astype(np.float32)
        steps = {"strides": [stride, 1], "dilations": [dilation, 1]}
        pads = resolve_pads(auto_pad, (), x.shape[2:], (kernel, 2), (stride, 1), (dilation, 1))
        want = convolved(x, weights, auto_pad=auto_pad, **steps)
        np.testing.assert_allclose(convolved(x, weights, pads=list(pads), **steps), want, rtol=1e-5, atol=1e-6)


def test_explicit_padding_stays() -> None:
    assert resolve_pads("NOTSET", (1, 2, 3, 4), (5, 5), (3, 3), (1, 1), (1, 1)) == (1, 2, 3, 4)
    assert resolve_pads("NOTSET", (), (5, 5), (3, 3), (1, 1), (1, 1)) == (0, 0, 0, 0)


def test_dilated_same_padding_keeps_the_size() -> None:
    assert resolve_pads("SAME_UPPER", (), (7,), (3,), (1,), (2,)) == (2, 2)
    assert resolve_pads("SAME_LOWER", (), (7,), (2,), (1,), (3,)) == (2, 1)
