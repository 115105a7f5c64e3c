"""A network of convolutions quantized while running is one region, and every step equals the reference."""

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
from tests.runtime.test_session import exact_session, sqnr


def make_net() -> onnx.ModelProto:
    """Bias, Relu, a residual, depthwise, a gate, pools, concatenation, strides, a 1-D view and a classifier."""
    rng = np.random.default_rng(0)
    tensors: list[Any] = []

    def weights(name: str, *shape: int) -> str:
        array = rng.normal(0, (2 / max(1, int(np.prod(shape[1:])))) ** 0.5, shape).astype(np.float32)
        tensors.append(numpy_helper.from_array(array, name))
        return name

    n = helper.make_node
    nodes = [
        n("Conv", ["x", weights("w0", 16, 3, 3, 3), weights("b0", 16)], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        n("Relu", ["c0"], ["r0"]),
        n("Conv", ["r0", weights("w1", 16, 1, 3, 3)], ["c1"], group=16, pads=[1, 1, 1, 1]),
        n("Clip", ["c1", "zero", "six"], ["r1"]),
        n("Conv", ["r1", weights("w2", 16, 16, 1, 1), weights("b2", 16)], ["c2"]),
        n("Add", ["c2", "r0"], ["a2"]),
        n("Relu", ["a2"], ["r2"]),
        n("GlobalAveragePool", ["r2"], ["g0"]),
        n("Conv", ["g0", weights("w3", 16, 16, 1, 1)], ["g1"]),
        n("HardSigmoid", ["g1"], ["g2"], alpha=0.2),
        n("Mul", ["r2", "g2"], ["m2"]),
        n("MaxPool", ["m2"], ["p0"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        n("AveragePool", ["m2"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        n("Concat", ["p0", "p1"], ["k"], axis=1),
        n("Conv", ["k", weights("w4", 8, 16, 3, 3)], ["c4"], group=2, auto_pad="SAME_UPPER"),
        n("Flatten", ["c4"], ["f"]),
        n("MatMul", ["f", weights("w5", 8 * 16, 5)], ["y"]),
    ]
    tensors += [numpy_helper.from_array(np.float32(v), name) for name, v in (("zero", 0), ("six", 6))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("weight_type", [quantization.QuantType.QInt8, quantization.QuantType.QUInt8])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_step_equals_the_reference(tmp_path: Path, weight_type: Any, threads: int) -> None:
    onnx.save(make_net(), tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", weight_type=weight_type)
    session = Session(tmp_path / "dynamic.onnx", threads, kernels=True)
    assert len(session.regions) == 1, session.describe()
    for batch in (1, 3):
        feeds = {"x": np.random.default_rng(batch).normal(size=(batch, 3, 16, 16)).astype(np.float32)}
        kinds = check_regions(session, feeds)
        assert (kinds["DynamicConv"], kinds["FloatPool"], kinds["Concat"]) == (5, 3, 1)
        assert kinds["FloatClamp"] == 2, "the other two are limits of convolutions"
        want = exact_session(tmp_path / "dynamic.onnx").run(None, feeds)[0]
        assert sqnr(session.run(None, feeds)[0], want) > 40


def test_a_zero_batch_and_a_used_sum(tmp_path: Path) -> None:
    proto = make_net()
    proto.graph.output.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, None))
    onnx.save(proto, tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "dynamic.onnx", weight_type=quantization.QuantType.QUInt8
    )
    session = Session(tmp_path / "dynamic.onnx", 1, kernels=True)
    assert session.regions
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}
    found, want = session.run(None, feeds), exact_session(tmp_path / "dynamic.onnx").run(None, feeds)
    assert [array.shape for array in found] == [(2, 5), (2, 16, 8, 8)]
    assert all(sqnr(a, b) > 40 for a, b in zip(found, want, strict=True))
    assert session.run(None, {"x": np.zeros((0, 3, 16, 16), np.float32)})[0].shape == (0, 5)
