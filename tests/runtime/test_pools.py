"""Shapes and values of pools are onnxruntime's, also where the kernel is larger than its image."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import Declined
from graphopt.ir import Value
from graphopt.runtime import Session
from graphopt.runtime.compile.legality import output_shape
from graphopt.runtime.lower.operations import FloatPool
from tests.runtime.reference import check_regions
from tests.runtime.test_session import exact_session


def pool_model(op: str, opset: int, rank: int, attributes: dict[str, Any]) -> Any:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (rank + 2)) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], **attributes)], "pool", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), settings)


def shape_of(op: str, attributes: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    kernel = attributes["kernel_shape"]
    pool = FloatPool(
        inputs=(Value(),), output=Value(), nodes=(), mean=op == "AveragePool", kernel=kernel,
        strides=attributes["strides"], pads=attributes["pads"], dilations=attributes.get("dilations", ()),
        ceil_mode=bool(attributes["ceil_mode"]), count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )  # fmt: skip
    try:
        return output_shape(pool, (shape,))
    except Declined:
        return None


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_every_shape_is_onnxruntimes(op: str, ceil: int) -> None:
    """What onnxruntime refuses, and little else, is left to it."""
    same = left = 0
    for kernel, stride, begin, end, dilation in product((1, 2, 3, 8), (1, 2, 3, 8), (0, 1, 2), (0, 1), (1, 2)):
        if max(begin, end) >= kernel:
            continue
        attributes = {"kernel_shape": (kernel,), "strides": (stride,), "pads": (begin, end), "ceil_mode": ceil}
        attributes |= {"dilations": (dilation,)}
        session = pool_model(op, 19, 1, attributes)
        for size in (1, 2, 3, 5, 8, 13):
            found = shape_of(op, attributes, (1, 2, size))
            if found is None:
                left += 1
                assert dilation * (kernel - 1) + 1 >= size + begin + end + stride
                continue
            want = session.run(None, {"x": np.zeros((1, 2, size), np.float32)})[0].shape
            assert found == want, (attributes, size)
            same += 1
    assert same > 500 and left > 20


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_every_shape_of_images_is_onnxruntimes(op: str) -> None:
    for kernel, stride, pad, ceil in product((2, 3, 9), (2, 9), (0, 1), (0, 1)):
        attributes = {"kernel_shape": (kernel, 2), "strides": (stride, 2), "pads": (pad, 0, 0, 1), "ceil_mode": ceil}
        session = pool_model(op, 12 if op == "MaxPool" else 11, 2, attributes)
        for sizes in product((2, 3, 7), (2, 5)):
            found = shape_of(op, attributes, (2, 3, *sizes))
            if found is not None:
                assert found == session.run(None, {"x": np.zeros((2, 3, *sizes), np.float32)})[0].shape
            else:
                assert kernel >= sizes[0] + pad + stride


def network(op: str, attributes: dict[str, Any]) -> onnx.ModelProto:
    """A QDQ Conv and the pool on codes."""
    rng = np.random.default_rng(2)
    arrays = {
        "w": rng.integers(-127, 128, (4, 3, 3, 3), np.int8), "sw": np.float32(0.01), "zw": np.int8(0),
        "sx": np.float32(0.03), "sy": np.float32(0.05), "z": np.uint8(120),
    }  # fmt: skip
    n = helper.make_node
    nodes = [
        n("QuantizeLinear", ["x", "sx", "z"], ["q0"]), n("DequantizeLinear", ["q0", "sx", "z"], ["d0"]),
        n("DequantizeLinear", ["w", "sw", "zw"], ["dw"]), n("Conv", ["d0", "dw"], ["c"], pads=[1, 1, 1, 1]),
        n("QuantizeLinear", ["c", "sy", "z"], ["q1"]), n("DequantizeLinear", ["q1", "sy", "z"], ["d1"]),
        n(op, ["d1"], ["p"], **attributes),
        n("QuantizeLinear", ["p", "sy", "z"], ["q2"]), n("DequantizeLinear", ["q2", "sy", "z"], ["d2"]),
        n("Identity", ["d2"], ["y"]),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [x], [y], [numpy_helper.from_array(np.array(a), k) for k, a in arrays.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("kernel,stride,pad", [(1280, 1280, 0), (3, 2, 1), (9, 9, 1), (4, 3, 0)])
def test_values_of_kernels_larger_than_the_image(
    op: str, include: int, kernel: int, stride: int, pad: int, ceil: int
) -> None:  # fmt: skip
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    attributes |= {"ceil_mode": ceil} | ({"count_include_pad": include} if op == "AveragePool" else {})
    model = network(op, attributes)
    session, exact = Session(model.SerializeToString(), 1, kernels=True), exact_session(model)
    assert session.regions
    left = kernel > 4 and op == "AveragePool" and include and not ceil  # onnxruntime's own count, by the operator set
    for size in (2, 3, 7):
        feeds = {"x": np.random.default_rng(size).normal(size=(2, 3, size, 5)).astype(np.float32)}
        if kernel != 4 and not left:
            check_regions(session, feeds)
        found, want = session.run(None, feeds)[0], exact.run(None, feeds)[0]
        assert found.shape == want.shape and np.abs(found - want).max() <= 0.0501  # one code
        assert np.mean(found != want) <= 0.25  # ties between codes
