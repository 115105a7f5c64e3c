"""BatchNormalization and quantization by channel: one region, every value the reference's, results onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.runtime import Session
from graphopt.runtime.lower.operations import ChannelTable
from tests.runtime.reference import check_regions
from tests.runtime.test_session import exact_session

n = helper.make_node


class Net:
    """Nodes and constants of a small quantized net, built one layer after the other."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.count = 0

    def constant(self, array: Any) -> str:
        self.count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"k{self.count}"))
        return f"k{self.count}"

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        self.nodes.append(n(op, list(inputs), [f"v{self.count}"], **attributes))
        return f"v{self.count}"

    def scale(self, scale: Any, zero: int = 120, dtype: Any = np.uint8) -> tuple[str, str]:
        scales = np.asarray(scale, np.float32)
        return self.constant(scales), self.constant(np.full(scales.shape, zero, dtype))

    def pair(self, x: str, scale: float = 0.03, zero: int = 120, dtype: Any = np.uint8) -> str:
        """QuantizeLinear and DequantizeLinear."""
        given = self.scale(scale, zero, dtype)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *given), *given)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, **attributes: Any) -> str:
        """Conv by quantized weights."""
        weights = self.constant(self.rng.integers(-60, 60, (outputs, inputs, kernel, kernel)).astype(np.int8))
        scale = self.constant(np.float32(0.01)), self.constant(np.int8(0))
        pads = [kernel // 2] * 4
        return self.add("Conv", x, self.add("DequantizeLinear", weights, *scale), pads=pads, **attributes)

    def normalization(self, x: str, channels: int, **attributes: Any) -> str:
        gamma, beta, mean = (self.constant(self.rng.normal(size=channels).astype(np.float32)) for _ in range(3))
        variance = self.constant(self.rng.uniform(0.3, 2, channels).astype(np.float32))
        return self.add("BatchNormalization", x, gamma, beta, mean, variance, **attributes)

    def model(self, result: str, shape: Any = (1, 6, 9, 7), opset: int = 17) -> bytes:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = onnx.ValueInfoProto(name=result)
        graph = helper.make_graph(self.nodes, "net", [x], [y], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def feeds(shape: Any = (1, 6, 9, 7)) -> dict[str, Any]:
    return {"x": np.random.default_rng(3).normal(size=shape).astype(np.float32)}


def agrees(model: bytes, given: dict[str, Any], steps: float) -> Any:
    """The session and its kinds of operations. Every value is the reference's; results may be a step from onnxruntime's
    next to a tie."""
    session = Session(model, 1, kernels=True)
    (found,) = session.run(None, given)
    (want,) = exact_session(onnx.load_from_string(model)).run(None, given)
    assert found.shape == want.shape and found.dtype == want.dtype
    apart = np.abs(found - want)
    assert apart.max(initial=0) <= steps * 1.001 and np.mean(apart > 1e-6) < 0.02
    return session, check_regions(session, given)


@pytest.mark.parametrize("behind", ["", "Relu", "HardSigmoid", "Tanh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_batch_normalization_between_codes(behind: str, dtype: Any) -> None:
    net = Net()
    zero = 120 if dtype is np.uint8 else 3
    x = net.pair(net.conv(net.pair("x", 0.03, zero, dtype), 6, 24, 3), 0.05, zero, dtype)
    x = net.normalization(x, 24, epsilon=1e-3)
    x = net.pair(net.add(behind, x) if behind else x, 0.04, zero, dtype)
    model = net.model(net.pair(net.conv(x, 24, 8), 0.07, zero, dtype))
    session, kinds = agrees(model, feeds(), 0.07)
    assert kinds["ChannelTable"] == 1 and len(session.regions) == len(session.describe().parts) == 1
    (table,) = [o for o in session.regions[0].segment.operations if isinstance(o, ChannelTable)]
    assert table.tables is not None and (table.tables.lines is None) == (behind == "Tanh")


def test_normalizations_that_are_no_function_of_a_code_by_channel() -> None:
    """A mean that is fed, and one in training mode, stay in onnxruntime."""
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 6, 3), 0.05)
    one, mean = net.constant(np.ones(6, np.float32)), net.add("ReduceMean", "x", axes=[0, 2, 3], keepdims=0)
    x = net.add("BatchNormalization", x, one, one, mean, one)
    _, kinds = agrees(net.model(net.pair(net.conv(net.pair(x), 6, 4), 0.07)), feeds(), 0.07)
    assert kinds["ChannelTable"] == 0 and kinds["Conv"] == 2


def same(net: Net, x: str) -> str:
    """A Reshape that changes nothing."""
    return net.add("Reshape", x, net.constant(np.zeros(4, np.int64)))


def by_channel(net: Net, x: str, channels: int, zero: int = 0, dtype: Any = np.uint8) -> str:
    """QuantizeLinear with a scale for each channel; what reads its codes takes the scales into its weights."""
    given = net.scale(net.rng.uniform(0.01, 0.04, channels), zero, dtype)
    codes = same(net, net.add("QuantizeLinear", same(net, x), *given, axis=1))
    return net.add("DequantizeLinear", codes, net.constant(np.float32(1)), net.constant(dtype(zero)))


@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint8), (np.int8, np.int8), (np.uint8, np.int8)])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_dense_block(pool: str, dtypes: Any) -> None:
    """Every layer reads all before it, normalized and quantized by channel: one region, without a float Concat."""
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 12, 3), 0.05)
    features, channels = net.add(pool, x, kernel_shape=[2, 2], strides=[2, 2]), 12
    for dtype in (*dtypes, dtypes[0]):
        x = by_channel(net, net.add("Relu", net.normalization(features, channels)), channels)
        x = net.pair(net.conv(x, channels, 8, 3), 0.3, 3, dtype)
        features, channels = net.add("Concat", features, x, axis=1), channels + 8
    x = by_channel(net, net.normalization(features, channels), channels, 7)
    session, kinds = agrees(net.model(net.pair(net.conv(x, channels, 4), 1.5)), feeds(), 1.5)
    assert kinds["ChannelQuantize"] == 4 and kinds["Concat"] == 0
    assert len(session.regions) == len(session.describe().parts) == 1, session.describe()


@pytest.mark.parametrize("behind", ["input", "input by channel", "Conv"])
@pytest.mark.parametrize("op, mode", [("SpaceToDepth", {}), ("DepthToSpace", {}), ("DepthToSpace", {"mode": "CRD"})])
def test_blocks_moved_to_channels_and_back(op: str, mode: Any, behind: str) -> None:
    net, shape = Net(), (2, 8, 6, 4)
    x = net.conv(net.pair("x"), 8, 8, 3) if behind == "Conv" else "x"
    scale = net.rng.uniform(0.01, 0.04, 8) if behind == "input by channel" else 0.05
    codes = net.add(op, net.add("QuantizeLinear", x, *net.scale(scale, 120), axis=1), blocksize=2, **mode)
    x = net.add("DequantizeLinear", codes, net.constant(np.float32(1)), net.constant(np.uint8(120)))
    channels = 32 if op == "SpaceToDepth" else 2
    session, kinds = agrees(net.model(net.pair(net.conv(x, channels, 4), 2.5), shape), feeds(shape), 2.5)
    assert kinds["Blocks"] == 1
    assert len(session.describe().parts) == 1, session.describe()


@pytest.mark.parametrize("op, mode", [("SpaceToDepth", {}), ("DepthToSpace", {}), ("DepthToSpace", {"mode": "CRD"})])
@pytest.mark.parametrize("size", ["known", "open"])
def test_blocks_of_floats_stay_in_the_region(op: str, mode: Any, size: str) -> None:
    """Between a convolution that is not quantized behind and one that reads codes; PRelu of each channel there."""
    net, shape = Net(), (2, 8, 6, 4)
    x = net.add(op, net.conv(net.pair("x"), 8, 8, 3), blocksize=2, **mode)
    channels = 32 if op == "SpaceToDepth" else 2
    slopes = net.constant(net.rng.uniform(-0.5, 0.5, (channels, 1, 1)).astype(np.float32))
    x = net.pair(net.add("Mul", net.add("PRelu", x, slopes), net.add("ReduceMean", "x", keepdims=0)), 0.02, 128)
    made = net.model(net.pair(net.conv(x, channels, 4), 2.5), shape)
    if size == "open":
        model = onnx.load_from_string(made)
        for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.Clear()
        made = model.SerializeToString()
    session, kinds = agrees(made, feeds(shape), 2.5)
    assert kinds["Blocks"] == 1 and kinds["FloatBinary"] == 2
    assert sum(part.where == "kernels" for part in session.describe().parts) == 1, session.describe()


def test_channels_that_kernels_do_not_know_stay() -> None:
    """Scales along another axis than the normalization's, and one that is fed."""
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 9, 3), 0.05)
    given = net.scale(net.rng.uniform(0.01, 0.04, 9), 0)
    codes = net.add("QuantizeLinear", net.normalization(x, 9), *given, axis=2)
    x = net.add("DequantizeLinear", codes, net.constant(np.float32(1)), net.constant(np.uint8(0)))
    _, kinds = agrees(net.model(net.pair(net.conv(x, 9, 4), 2.5)), feeds(), 2.5)
    assert kinds["ChannelQuantize"] == 0 and kinds["Conv"] == 2
