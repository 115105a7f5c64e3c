"""Random networks of operators that couple channels: shortcuts, Concat, Split, shuffles, gates, groups, attention …"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, LENGTH = 6, 5


class Net:
    """Builds one network on f32[N,C,6,6]; `x` and `channels` are where it is."""

    def __init__(self, seed: int) -> None:
        self.rng, self.values = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.given = self.rng.choice((2, 3, 4))
        self.x, self.channels = "x", self.given

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}{len(self.nodes)}", **attributes))
        return names[0]

    def outputs(self) -> list[str]:
        return list(self.nodes[-1].output)

    def weight(self, *shape: int, scale: float = 0.0) -> str:
        size = scale or (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        return self.constant((self.values.standard_normal(shape) * size).astype(np.float32))

    def constant(self, values: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, group: int = 1) -> str:
        given = [x, self.weight(outputs, inputs // group, kernel, kernel)]
        if self.rng.random() < 0.5:
            given.append(self.weight(outputs, scale=0.3))
        return self.add("Conv", *given, group=group, pads=[kernel // 2] * 4)

    def norm(self, x: str, channels: int) -> str:
        parts = [self.weight(channels, scale=0.3) for _ in range(3)]
        return self.add(
            "BatchNormalization", x, *parts, self.constant(self.values.uniform(0.5, 1.5, channels).astype("f"))
        )

    def act(self, x: str) -> str:
        op = self.rng.choice(("Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Tanh", "SiLU", "PRelu", "Clip"))
        if op == "SiLU":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if op == "Clip":
            return self.add("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))
        if op == "PRelu":
            return self.add("PRelu", x, self.constant(np.full((1, 1, 1), 0.2, "f")))
        return self.add(op, x)

    def width(self) -> int:
        return self.rng.choice((6, 8, 12, 16))


def plain(net: Net) -> None:
    width = net.width()
    x = net.conv(net.x, net.channels, width, net.rng.choice((1, 3)))
    net.x, net.channels = net.act(net.norm(x, width) if net.rng.random() < 0.5 else x), width


def residual(net: Net) -> None:
    inner = net.width()
    h = net.act(net.conv(net.x, net.channels, inner, 3))
    h = net.norm(net.conv(h, inner, net.channels, 1), net.channels)
    net.x = net.act(net.add("Add", *((h, net.x) if net.rng.random() < 0.5 else (net.x, h))))


def inverted(net: Net) -> None:
    inner = 2 * net.channels
    h = net.act(net.conv(net.x, net.channels, inner))
    h = net.act(net.conv(h, inner, inner, 3, inner))
    net.x = net.add("Add", net.conv(h, inner, net.channels), net.x)


def gate(net: Net) -> None:
    pooled = net.add("GlobalAveragePool", net.x)
    inner = net.rng.choice((4, 6))
    if net.rng.random() < 0.5:
        h = net.conv(net.add("Relu", net.conv(pooled, net.channels, inner)), inner, net.channels)
    else:
        flat = net.add("Flatten", pooled)
        h = net.add("Relu", net.add("MatMul", flat, net.weight(net.channels, inner)))
        h = net.add("Gemm", h, net.weight(net.channels, inner), net.weight(net.channels, scale=0.2), transB=1)
        h = net.add("Reshape", h, net.ints(0, net.channels, 1, 1) if net.rng.random() < 0.5 else net.ints(0, -1, 1, 1))
    net.x = net.add("Mul", net.x, net.add("HardSigmoid", h))


def dense(net: Net) -> None:
    growth = net.rng.choice((4, 6))
    for _ in range(2):
        h = net.conv(net.act(net.norm(net.x, net.channels)), net.channels, growth, 3)
        net.x = net.add("Concat", *((net.x, h) if net.rng.random() < 0.5 else (h, net.x)), axis=1)
        net.channels += growth


def fire(net: Net) -> None:
    squeeze, wide = net.rng.choice((3, 4)), net.width()
    s = net.act(net.conv(net.x, net.channels, squeeze))
    branches = [net.act(net.conv(s, squeeze, wide, k)) for k in (1, 3)]
    net.x, net.channels = net.add("Concat", *branches, axis=1), 2 * wide


def c2f(net: Net) -> None:
    width = 2 * net.rng.choice((4, 6))
    whole = net.act(net.conv(net.x, net.channels, width))
    left = net.add("Split", whole, net.ints(width // 2, width // 2), outputs=2, axis=1)
    right = net.outputs()[1]
    h = net.conv(net.act(net.conv(right, width // 2, width // 2, 3)), width // 2, width // 2, 3)
    net.x, net.channels = net.add("Concat", left, right, net.add("Add", right, h), axis=1), 3 * width // 2


def sliced(net: Net) -> None:
    width = net.width()
    h = net.conv(net.x, net.channels, width)
    cut = net.rng.randrange(2, width - 1)
    first = net.add("Slice", h, net.ints(0), net.ints(cut), net.ints(1))
    second = net.add("Slice", h, net.ints(cut), net.ints(9999), net.ints(1))
    net.x, net.channels = net.add("Concat", net.act(second), first, axis=1), width


def grouped(net: Net) -> None:
    groups = net.rng.choice((2, 3))
    inner = groups * net.rng.choice((4, 6))
    h = net.act(net.conv(net.x, net.channels, inner))
    h = net.act(net.norm(net.conv(h, inner, inner, 3, groups), inner))
    net.x, net.channels = net.conv(h, inner, net.width()), net.width()
    net.channels = net.weights[-1].dims[0] if len(net.weights[-1].dims) == 4 else net.weights[-2].dims[0]


def shuffle(net: Net) -> None:
    groups = net.rng.choice((2, 3))
    inner = groups * net.rng.choice((4, 6))
    h = net.conv(net.x, net.channels, inner)
    h = net.act(net.conv(h, inner, inner, 1, groups))
    h = net.add("Reshape", h, net.ints(0, groups, inner // groups, SIDE, SIDE))
    h = net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3, 4]), net.ints(0, inner, SIDE, SIDE))
    h = net.conv(net.conv(h, inner, inner, 3, inner), inner, inner, 1, groups if net.rng.random() < 0.5 else 1)
    net.x, net.channels = net.act(h), inner


def pixels(net: Net) -> None:
    width = net.rng.choice((3, 4))
    h = net.conv(net.x, net.channels, 4 * width)
    h = net.add("DepthToSpace", h, blocksize=2, mode=net.rng.choice(("DCR", "CRD")))
    h = net.act(net.conv(h, width, width, 3)) if net.rng.random() < 0.5 else h
    net.x, net.channels = net.add("SpaceToDepth", h, blocksize=2), 4 * width


def padded(net: Net) -> None:
    extra = net.rng.choice((2, 3))
    wide = net.channels + extra
    h = net.add("Pad", net.x, net.ints(0, 0, 0, 0, 0, extra, 0, 0))
    net.x, net.channels = net.act(net.add("Add", h, net.conv(net.x, net.channels, wide))), wide


def transposed(net: Net) -> None:
    groups = net.rng.choice((1, 2))
    inner, out = 2 * net.rng.choice((3, 4)), 2 * net.rng.choice((3, 4))
    h = net.act(net.conv(net.x, net.channels, inner))
    h = net.add("ConvTranspose", h, net.weight(inner, out // groups, 2, 2, scale=0.3), strides=[2, 2], group=groups)
    net.x, net.channels = net.add("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2]), out


def channels_last(net: Net) -> None:
    inner = net.width()
    h = net.add("Transpose", net.conv(net.x, net.channels, inner), perm=[0, 2, 3, 1])
    h = net.add("Add", net.add("MatMul", h, net.weight(inner, inner)), net.weight(inner, scale=0.2))
    h = net.add("Add", net.add("MatMul", net.add("Tanh", h), net.weight(inner, net.channels)), net.weight(net.channels))
    net.x = net.add("Add", net.x, net.add("Transpose", h, perm=[0, 3, 1, 2]))


def attention(net: Net) -> None:
    heads, each, tokens = net.rng.choice((2, 3)), 4, SIDE * SIDE
    inner = heads * each
    rows = net.add("Reshape", net.x, net.ints(0, net.channels, tokens))
    rows = net.add("Transpose", rows, perm=[0, 2, 1])
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        h = net.add("Add", net.add("MatMul", rows, net.weight(net.channels, inner)), net.weight(inner, scale=0.2))
        shape = net.ints(0, 0, heads, each) if net.rng.random() < 0.5 else net.ints(0, tokens, -1, each)
        parts.append(net.add("Transpose", net.add("Reshape", h, shape), perm=perm))
    share = net.add("Softmax", net.add("MatMul", parts[0], parts[1]), axis=-1)
    h = net.add("Transpose", net.add("MatMul", share, parts[2]), perm=[0, 2, 1, 3])
    h = net.add("MatMul", net.add("Reshape", h, net.ints(0, 0, inner)), net.weight(inner, net.channels))
    h = net.add(
        "LayerNormalization", net.add("Add", h, rows), net.weight(net.channels), net.weight(net.channels), axis=-1
    )
    h = net.add("Transpose", h, perm=[0, 2, 1])
    net.x = net.add("Reshape", h, net.ints(0, net.channels, SIDE, SIDE))


def quantized(net: Net) -> None:
    width = net.width()
    table = net.values.integers(-90, 90, (width, net.channels, 1, 1)).astype(np.int8)
    scale, zero = net.values.uniform(0.005, 0.02, width).astype("f"), np.zeros(width, np.int8)
    w = net.add("DequantizeLinear", net.constant(table), net.constant(scale), net.constant(zero), axis=0)
    net.x, net.channels = net.act(net.add("Conv", net.x, w)), width


def folded(net: Net) -> None:
    """Attention on [batch x heads, tokens, each], with shapes that are written down, read, or multiplied."""
    heads, each, tokens = net.rng.choice((2, 3)), 4, SIDE * SIDE
    inner = heads * each
    rows = net.add("Transpose", net.add("Reshape", net.x, net.ints(0, net.channels, tokens)), perm=[0, 2, 1])
    batch = net.add("Gather", net.add("Shape", rows), net.constant(np.int64(0)))
    parts = []
    for perm in ([0, 2, 1], [0, 2, 1], [0, 1, 2]):
        h = net.add("MatMul", rows, net.weight(net.channels, inner))
        h = net.add("Transpose", net.add("Reshape", h, net.ints(0, 0, heads, each)), perm=[0, 2, 1, 3])
        if net.rng.random() < 0.5:
            first = net.add("Unsqueeze", net.add("Mul", batch, net.constant(np.int64(heads))), net.ints(0))
            shape = net.add("Concat", first, net.ints(tokens, each), axis=0)
        else:
            shape = net.ints(-1, tokens, each)
        h = net.add("Reshape", h, shape)
        parts.append(net.add("Transpose", h, perm=perm) if len(parts) == 1 else h)
    share = net.add("Softmax", net.add("MatMul", parts[0], parts[1]), axis=-1)
    h = net.add("MatMul", share, parts[2])
    first = net.add("Unsqueeze", batch, net.ints(0))
    h = net.add("Reshape", h, net.add("Concat", first, net.ints(heads, tokens, each), axis=0))
    h = net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3]), net.ints(0, tokens, -1))
    h = net.add("Transpose", net.add("MatMul", h, net.weight(inner, net.channels)), perm=[0, 2, 1])
    net.x = net.add("Reshape", h, net.ints(0, net.channels, SIDE, SIDE))


def scores(net: Net) -> None:
    """Two computed values multiplied over their channels: [tokens, each] [each, tokens]."""
    each, tokens = net.rng.choice((6, 8)), SIDE * SIDE
    flat = [
        net.add("Reshape", net.conv(net.x, net.channels, each), net.ints(0, each if net.rng.random() < 0.5 else 0, -1))
        for _ in range(2)
    ]
    share = net.add("MatMul", net.add("Transpose", flat[0], perm=[0, 2, 1]), flat[1])
    value = net.add("Reshape", net.conv(net.x, net.channels, net.channels), net.ints(0, 0, tokens))
    h = net.add("MatMul", value, net.add("Sigmoid", share))
    net.x = net.add("Reshape", h, net.ints(0, net.channels, SIDE, SIDE))


def read_sizes(net: Net) -> None:
    """A Reshape to the size of another value, the channels among it."""
    width = net.width()
    h = net.conv(net.x, net.channels, width)
    sizes = net.add("Shape", h)
    flat = net.act(net.add("Reshape", h, net.ints(0, 0, -1)))
    if net.rng.random() < 0.5:
        front = net.add("Slice", sizes, net.ints(0), net.ints(2), net.ints(0))
        sizes = net.add("Concat", front, net.ints(SIDE, SIDE), axis=0)
    net.x, net.channels = net.add("Reshape", flat, sizes), width


BLOCKS: tuple[Callable[[Net], None], ...] = (
    plain, residual, inverted, gate, dense, fire, c2f, sliced, grouped, shuffle, pixels, padded, transposed,
    channels_last, attention, quantized, folded, scores, read_sizes,
)  # fmt: skip


def make(seed: int) -> onnx.ModelProto:
    """The network of a seed: a stem, one to four blocks, a head behind a pooling or a Flatten; opset 17."""
    net = Net(seed)
    plain(net)
    for block in net.rng.choices(BLOCKS, k=net.rng.randint(1, 4)):
        block(net)
    classes = 5
    if net.rng.random() < 0.5:
        net.x = net.add("GlobalAveragePool", net.x)
        features = net.channels
    else:
        features = net.channels * SIDE * SIDE
    flat = net.add("Flatten", net.x)
    y = net.add("Gemm", flat, net.weight(classes, features), transB=1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", net.given, SIDE, SIDE])
    out = helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(net.nodes, "random", [x], [out], net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)
