"""Generated models: mixed graphs of any length for scaling, external data of gigabytes for memory, a MobileNetV2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8
SIDE = 4
BLOCK = 30  # nodes
# Sandler et al. 2018, table 2: expansion, channels, repeats, first stride
MOBILENET_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class _Writer:
    """Collects nodes and weights under numbered names."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, values: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0, around: float = 0.0) -> str:
        return self.weight(around + scale * self.rng.standard_normal(shape))

    def batch_norm(self, x: str) -> str:
        shift, mean = self.normal(CHANNELS, scale=0.1), self.normal(CHANNELS, scale=0.1)
        scale, variance = (self.weight(self.rng.uniform(0.5, 1.5, CHANNELS)) for _ in range(2))
        return self.node("BatchNormalization", x, scale, shift, mean, variance)


def chain(n_nodes: int, seed: int = 0) -> onnx.ModelProto:
    """Exactly `n_nodes` nodes on f32[N,8,4,4], in blocks of 30 as real files mix them.

    A block holds an inverted residual with unfused BatchNormalization, SiLU, a decomposed LayerNorm between Reshape and
    Transpose pairs, and what optimizers remove: Identity, Dropout, constant arithmetic, a repeated subexpression.
    """
    writer = _Writer(seed)
    x = "x"
    while n_nodes - len(writer.nodes) >= BLOCK:
        x = _block(writer, x)
    while len(writer.nodes) < n_nodes:
        x = writer.node("Relu", x)
    return _model(writer.nodes, writer.weights, "chain", ["N", CHANNELS, SIDE, SIDE], x)


def _block(writer: _Writer, x: str) -> str:
    node = writer.node
    h = node("Conv", x, writer.normal(CHANNELS, CHANNELS, 1, 1, scale=0.5))
    h = node("Relu", writer.batch_norm(h))
    h = node("Conv", h, writer.normal(CHANNELS, 1, 3, 3, scale=0.4), group=CHANNELS, pads=[1, 1, 1, 1])
    h = node("Add", writer.batch_norm(h), x)
    h = node("Identity", node("Mul", h, node("Sigmoid", h)))
    h = node("Dropout", h)
    h = node("Reshape", h, writer.weight([0, CHANNELS, SIDE * SIDE], np.int64))
    h = node("Transpose", h, perm=[0, 2, 1])
    centred = node("Sub", h, node("ReduceMean", h, axes=[-1]))
    variance = node("ReduceMean", node("Pow", centred, writer.weight(2.0)), axes=[-1])
    deviation = node("Sqrt", node("Add", variance, writer.weight(1e-5)))
    h = node("Div", centred, deviation)
    h = node("Add", node("Mul", h, writer.normal(CHANNELS, scale=0.2, around=1.0)), writer.normal(CHANNELS, scale=0.1))
    h = node("Transpose", h, perm=[0, 2, 1])
    h = node("Reshape", h, writer.weight([0, CHANNELS, SIDE, SIDE], np.int64))
    constant = node("Mul", writer.normal(CHANNELS, 1, 1, scale=0.3), writer.weight(0.5))
    h = node("Add", h, constant)
    once, again = node("Tanh", h), node("Tanh", h)
    return node("Add", h, node("Mul", node("Neg", once), again))


def external_model(path: Path, gigabytes: float = 3.0, side: int = 4096) -> Path:
    """A chain of MatMuls at `path` whose f32[side,side] weights lie in `path`.data; returns `path`.

    The data file is sparse and costs neither disk nor time: every weight is zero but for its first row.
    """
    size = side * side * 4
    count = max(1, round(gigabytes * 1e9 / size))
    data = path.with_name(path.name + ".data")
    rng = np.random.default_rng(0)
    with data.open("wb") as stream:
        for index in range(count):
            stream.seek(index * size)
            stream.write(rng.standard_normal(side, np.float32).tobytes())
        stream.truncate(count * size)
    names = ["x", *(f"h{index}" for index in range(count))]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    weights = [_external(f"w{i}", [side, side], data.name, i * size, size) for i in range(count)]
    path.write_bytes(_model(nodes, weights, "external", ["N", side], names[-1]).SerializeToString())
    return path


def _external(name: str, shape: list[int], location: str, offset: int, length: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def mobilenet_v2(classes: int = 1000) -> onnx.ModelProto:
    """MobileNetV2 (Sandler et al. 2018) from f32[N,3,224,224] to f32[N,classes], BatchNormalization unfused, opset 17.

    Its weights are ConstantOfShape nodes, for `tests.weights.he_initialised` to replace.
    """
    nodes: list[onnx.NodeProto] = []
    limits = [numpy_helper.from_array(np.float32(v), name) for v, name in ((0, "zero"), (6, "six"))]
    weights = list(limits)

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(np.asarray(shape, np.int64), f"{name}.shape"))
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}.shape"], [name]))
        return name

    def conv(x: str, name: str, shape: tuple[int, ...], relu: bool = True, **attributes: object) -> str:
        nodes.append(helper.make_node("Conv", [x, weight(f"{name}.w", *shape)], [f"{name}.conv"], **attributes))
        norm = [weight(f"{name}.{part}", shape[0]) for part in ("scale", "shift", "mean", "variance")]
        nodes.append(helper.make_node("BatchNormalization", [f"{name}.conv", *norm], [f"{name}.norm"]))
        if not relu:
            return f"{name}.norm"
        nodes.append(helper.make_node("Clip", [f"{name}.norm", "zero", "six"], [f"{name}.relu6"]))
        return f"{name}.relu6"

    x = conv("image", "stem", (32, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    width = 32
    for number, (expansion, channels, stride) in enumerate(_mobilenet_blocks()):
        name, hidden, shortcut = f"block{number}", width * expansion, x
        if expansion != 1:
            x = conv(x, f"{name}.expand", (hidden, width, 1, 1))
        depthwise = {"group": hidden, "strides": [stride, stride], "pads": [1, 1, 1, 1]}
        x = conv(x, f"{name}.depthwise", (hidden, 1, 3, 3), **depthwise)  # type: ignore[arg-type]
        x = conv(x, f"{name}.project", (channels, hidden, 1, 1), relu=False)
        if stride == 1 and width == channels:
            nodes.append(helper.make_node("Add", [shortcut, x], [f"{name}.sum"]))
            x = f"{name}.sum"
        width = channels
    x = conv(x, "head", (1280, width, 1, 1))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["features"]))
    matrix, bias = weight("classifier.w", classes, 1280), weight("classifier.b", classes)
    nodes.append(helper.make_node("Gemm", ["features", matrix, bias], ["logits"], transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(nodes, "mobilenet_v2", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _mobilenet_blocks() -> Iterator[tuple[int, int, int]]:
    """Expansion, channels and stride of each of the 17 blocks."""
    for expansion, channels, repeats, stride in MOBILENET_V2:
        for number in range(repeats):
            yield expansion, channels, stride if number == 0 else 1


def _model(
    nodes: list[onnx.NodeProto], weights: list[TensorProto], name: str, shape: list[str | int], last: str
) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(port, TensorProto.FLOAT, shape) for port in ("x", last))
    graph = helper.make_graph(nodes, name, [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
