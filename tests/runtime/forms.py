"""One network with every operator that kernels cover, and the forms in which onnxruntime quantizes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization


def make_cnn(seed: int = 0, opset: int = 17) -> onnx.ModelProto:
    """Every covered operator once: residual, depthwise, strides, concat, gate, shuffle, pools, 1×1, Flatten, Gemm."""
    rng = np.random.default_rng(seed)
    initializers: list[Any] = []

    def weights(name: str, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        array = rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32)
        initializers.append(numpy_helper.from_array(array, name))
        return name

    def constant(name: str, array: Any) -> str:
        initializers.append(numpy_helper.from_array(array, name))
        return name

    n = helper.make_node
    nodes = [
        n("Conv", ["x", weights("w0", 32, 3, 3, 3), weights("b0", 32)], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        n("Relu", ["c0"], ["r0"]),
        n("Conv", ["r0", weights("w1", 32, 1, 3, 3)], ["c1"], group=32, pads=[1, 1, 1, 1]),
        n("HardSwish", ["c1"], ["h1"]),
        n("Conv", ["h1", weights("w2", 32, 32, 3, 3), weights("b2", 32)], ["c2"], pads=[1, 1, 1, 1]),
        n("Add", ["c2", "r0"], ["a2"]),
        n("Relu", ["a2"], ["r2"]),
        n("GlobalAveragePool", ["r2"], ["g"]),
        n("Conv", ["g", weights("wg", 32, 32, 1, 1)], ["cg"]),
        n("Sigmoid", ["cg"], ["sg"]),
        n("Mul", ["r2", "sg"], ["m2"]),
        n("MaxPool", ["m2"], ["p2"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        n("Conv", ["p2", weights("w3", 24, 32, 1, 1)], ["c3"]),
        n("AveragePool", ["p2"], ["v3"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        n("Concat", ["c3", "v3"], ["k"], axis=1),
        n("Reshape", ["k", constant("s1", np.array([0, 2, 28, 4, 4]))], ["k1"]),
        n("Transpose", ["k1"], ["k2"], perm=[0, 2, 1, 3, 4]),
        n("Reshape", ["k2", constant("s2", np.array([0, 56, 4, 4]))], ["k3"]),
        n("Conv", ["k3", weights("w4", 16, 28, 1, 1)], ["c4"], group=2),
        n("LeakyRelu", ["c4"], ["l4"], alpha=0.1),
        n("Flatten", ["l4"], ["f"]),
        n("Gemm", ["f", weights("w5", 10, 256), weights("b5", 10)], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "cnn", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


class Reader:
    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.feeds = iter([{"x": rng.normal(size=(2, 3, 16, 16)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


FORMS = {
    "qdq": {"quant_format": quantization.QuantFormat.QDQ, "per_channel": True},
    "qdq-s8": {"quant_format": quantization.QuantFormat.QDQ, "activation_type": quantization.QuantType.QInt8},
    "qdq-u8w": {"quant_format": quantization.QuantFormat.QDQ, "weight_type": quantization.QuantType.QUInt8},
    "qdq-7bit": {"quant_format": quantization.QuantFormat.QDQ, "per_channel": True, "reduce_range": True},
    "qoperator": {"quant_format": quantization.QuantFormat.QOperator, "per_channel": True},
}


def feed(batch: int = 2, seed: int = 1) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).normal(size=(batch, 3, 16, 16)).astype(np.float32)}
