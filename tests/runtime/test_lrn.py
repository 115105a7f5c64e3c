"""LRN between quantized convolutions stays in their region, with a MaxPool between it and QuantizeLinear or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from graphopt.runtime import Session
from tests.runtime.reference import check_regions
from tests.runtime.test_channels import Net
from tests.runtime.test_session import exact_session, sqnr


def feeds_of(seed: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).normal(size=(2, 3, 14, 14)).astype(np.float32)}


class Reader:
    def __init__(self) -> None:
        self.feeds = iter([feeds_of(seed) for seed in range(4)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def make_net(pool_before: bool) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"w0": (24, 3, 3, 3), "w1": (24, 24, 3, 3), "w2": (8, 24, 1, 1)}
    tensors = [
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    n = helper.make_node
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    between = [("MaxPool", pool), ("LRN", {"size": 5})] if pool_before else [("LRN", {"size": 5}), ("MaxPool", pool)]
    nodes = [n("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]), n("Relu", ["c0"], ["r0"])]
    nodes += [n(op, [before], [after], **a) for (op, a), before, after in zip(between, ("r0", "m"), ("m", "l"))]
    nodes += [
        n("Conv", ["l", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        n("LRN", ["c1"], ["l1"], size=3, alpha=0.02, beta=0.5, bias=2.0),
        n("Conv", ["l1", "w2"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 14, 14])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("pool_before", [False, True])
def test_lrn_is_part_of_the_region(tmp_path: Path, pool_before: bool) -> None:
    onnx.save(make_net(pool_before), tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx", tmp_path / "qdq.onnx", Reader(), activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    session, feeds = Session(tmp_path / "qdq.onnx", 2, kernels=True), feeds_of(9)
    assert len(session.regions) == 1, session.describe()
    assert check_regions(session, feeds)["Lrn"] == 2
    found, want = session.run(None, feeds)[0], exact_session(tmp_path / "qdq.onnx").run(None, feeds)[0]
    assert sqnr(found, want) > 40


def spelled(net: Net, x: str, size: int, **pool: Any) -> str:
    """LRN in the operators that onnxruntime is faster at; `pool` are attributes of the mean over channels."""
    axis = net.constant(np.array([1]))
    pads = [(size - 1) // 2, 0, 0, size // 2, 0, 0]
    mean = net.add("Unsqueeze", net.add("Mul", x, x), axis)
    mean = net.add("AveragePool", mean, **{"kernel_shape": [size, 1, 1], "pads": pads, "count_include_pad": 1, **pool})
    base = net.add("Mul", net.add("Squeeze", mean, axis), net.constant(np.float32(0.3)))
    root = net.add("Sqrt", net.add("Add", base, net.constant(np.float32(1.5))))
    return net.add("Div", x, net.add("Mul", root, net.add("Sqrt", root)))


@pytest.mark.parametrize("size", [5, 2])
def test_spelled_lrn_with_pools_before_and_behind(size: int) -> None:
    net, pool = Net(), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    x = net.pair(net.conv(net.pair("x"), 6, 12, 3), 0.05)
    x = net.pair(spelled(net, net.add("MaxPool", x, strides=[2, 2], **pool), size), 0.02)
    x = net.pair(net.conv(x, 12, 12, 3), 0.06)
    x = net.add("MaxPool", spelled(net, x, size), **pool)
    first = net.pair(net.conv(net.pair(x, 0.02), 12, 4), 0.05)
    second = net.pair(net.conv(net.pair(net.add("MaxPool", x, **pool), 0.02), 12, 4), 0.05)
    model = net.model(net.pair(net.add("Add", first, second), 0.08))
    given = {"x": np.random.default_rng(9).normal(size=(1, 6, 9, 7)).astype(np.float32)}
    session = Session(model, 2, kernels=True)
    assert len(session.describe().parts) == 1, session.describe()
    kinds = check_regions(session, given)
    assert kinds["Lrn"] == 2 and kinds["MaxPool"] == 1
    found, want = session.run(None, given)[0], exact_session(onnx.load_from_string(model)).run(None, given)[0]
    assert sqnr(found, want) > 30


@pytest.mark.parametrize(
    "pool",
    [{"count_include_pad": 0}, {"pads": [1, 0, 0, 3, 0, 0]}, {"kernel_shape": [5, 3, 1], "pads": [2, 1, 0, 2, 1, 0]}],
)
def test_other_means_are_no_lrn(pool: Any) -> None:
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 12, 3), 0.05)
    model = net.model(net.pair(net.conv(net.pair(spelled(net, x, 5, **pool), 0.02), 12, 4), 0.05))
    given = {"x": np.random.default_rng(9).normal(size=(1, 6, 9, 7)).astype(np.float32)}
    session = Session(model, 1, kernels=True)
    kinds = check_regions(session, given)
    assert kinds["Lrn"] == 0 and kinds["Conv"] == 2
