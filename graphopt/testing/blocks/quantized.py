"""Quantized spellings: QuantizeLinear and DequantizeLinear around operators, weights stored in 8 bits."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import DType, Value
from ..sketch import Sketch


def _scale(s: Sketch) -> Value:
    return s.constant(np.float32(s.choose((0.0625, 0.125, 0.03125))))


def round_trip(s: Sketch) -> Value:
    """QuantizeLinear and DequantizeLinear of a steady value; perhaps twice, perhaps with a Transpose in between"""
    x = s.pick(DType.FLOAT, steady=True)
    scale, zero = _scale(s), s.constant(np.array(s.choose((0, 3)), s.choose((np.uint8, np.int8))))
    q = s.node("QuantizeLinear", x, scale, zero)
    s.facts[q].bound = 255.0
    if s.chance(0.3) and s.rank(q) == 4:
        q = s.node("Transpose", q, perm=(0, 2, 3, 1))
    y = s.node("DequantizeLinear", q, scale, zero, bound=s.facts[x].bound + 1)
    s.facts[y].steady = True
    if s.chance(0.4):
        z = s.node("DequantizeLinear", s.node("QuantizeLinear", y, scale, zero), scale, zero, bound=s.facts[y].bound)
        s.facts[z].steady = True
        return z
    return y


def requantized(s: Sketch) -> Value:
    """Codes dequantized, moved, clipped or concatenated, and quantized again with the same scale"""
    x = s.pick(DType.FLOAT, steady=True, ranks=(2, 3, 4))
    scale, zero = _scale(s), s.constant(np.array(s.choose((0, 3, 100)), s.choose((np.uint8, np.int8))))
    bound = s.facts[x].bound + 1

    def read(value: Value) -> Value:
        codes = s.node("QuantizeLinear", value, scale, zero, bound=255.0)
        return s.node("DequantizeLinear", codes, scale, zero, bound=bound)

    y = read(x)
    for _ in range(s.integer(1, 3)):
        last = s.rank(y) - 1
        move = s.choose(("Transpose", "Concat", "Slice", "Relu", "Clip", "MaxPool", "ReduceMax"))
        if move == "Transpose":
            y = s.node(move, y, perm=tuple(range(last, -1, -1)))
        elif move == "Concat":
            y = s.node(move, y, s.choose((y, read(x))), axis=0)
        elif move == "Slice" and s.opset >= 10:
            y = s.node(move, y, s.ints(0), s.ints(1), s.ints(last))
        elif move == "Clip" and s.opset >= 11:
            y = s.node(move, y, s.constant(np.float32(0)), s.constant(np.float32(s.choose((6, 0.3)))))
        elif move == "MaxPool" and last == 3:
            y = s.node(move, y, kernel_shape=(1, 1), strides=(2, 1))
        elif move == "ReduceMax" and 12 <= s.opset < 18:
            y = s.node(move, y, axes=(last,))
        elif move == "Relu":
            y = s.node(move, y)
    z = s.node("DequantizeLinear", s.node("QuantizeLinear", y, scale, zero, bound=255.0), scale, zero, bound=bound)
    for value in (y, z):
        s.facts[value].steady = True
    return z


def quantized_weight(s: Sketch) -> None:
    """A Conv or MatMul whose weight is stored in 8 bits"""
    x = s.pick(DType.FLOAT, ranks=(2, 3, 4), bound=50.0)
    channelwise = s.opset >= 13 and s.chance(0.5)
    if s.rank(x) == 4:
        channels = s.size(x, 1)
        shape, axis, op = (4, channels, 1, 1), 0, "Conv"
    else:
        shape, axis, op = (s.size(x, -1), 4, 1, 1)[:2], 1, "MatMul"  # type: ignore[assignment]
    stored = s.constant(s.arrays.integers(-127, 128, shape).astype(np.int8))
    if channelwise:
        scale = s.constant(s.arrays.uniform(0.004, 0.01, shape[axis]).astype(np.float32))
        w = s.node("DequantizeLinear", stored, scale, s.constant(np.zeros(shape[axis], np.int8)), axis=axis, bound=1.0)
    else:
        w = s.node("DequantizeLinear", stored, s.constant(np.float32(0.008)), bound=1.0)
    if s.chance(0.2) and op == "MatMul":
        w = s.node("Mul", s.node("Cast", stored, to=int(DType.FLOAT)), s.constant(np.float32(0.008)), bound=1.0)
    s.node(op, x, w)


def layers(s: Sketch) -> None:
    """One to three Conv or MatMul between QuantizeLinear and DequantizeLinear: a statically quantized model"""
    x = s.pick(DType.FLOAT, ranks=(2, 3, 4), steady=True, bound=20.0)
    signed = s.choose((np.uint8, np.int8))
    scale, zero = s.constant(np.float32(s.choose((0.125, 0.0625, 0.1)))), s.constant(np.array(s.choose((0, 3)), signed))

    def read(value: Value) -> Value:
        codes = s.node("QuantizeLinear", value, scale, zero, bound=255.0)
        return s.node("DequantizeLinear", codes, scale, zero, bound=20.0)

    y = read(x)
    for _ in range(s.integer(1, 3)):
        width, image = s.choose((4, 8)), s.rank(y) == 4
        inner = s.size(y, 1 if image else -1)
        kernel = s.choose((1, 3))
        shape = (width, inner, kernel, kernel) if image else (inner, width)
        stored = s.constant(s.arrays.integers(-127, 128, shape).astype(np.int8))
        if s.opset >= 13 and s.chance(0.5):
            steps = s.constant(s.arrays.uniform(0.004, 0.01, width).astype(np.float32))
            zeros = s.constant(np.zeros(width, np.int8))
            w = s.node("DequantizeLinear", stored, steps, zeros, axis=0 if image else 1, bound=1.0)
        else:
            w = s.node("DequantizeLinear", stored, s.constant(np.float32(0.008)), bound=1.0)
        if image:
            bias = s.weight((width,)) if s.chance(0.5) else None
            y = s.node("Conv", y, w, bias, pads=(kernel // 2,) * 4, bound=20.0)
        else:
            y = s.node("MatMul", y, w, bound=20.0)
            y = s.node("Add", y, s.weight((width,)), bound=20.0) if s.chance(0.5) else y
        if s.chance(0.5):
            y = s.node("Relu", y)
        y = read(y)


def dynamic(s: Sketch) -> None:
    """DynamicQuantizeLinear and an integer product, perhaps as onnxruntime fuses it with its scales"""
    x = s.pick(DType.FLOAT, ranks=(2, 3, 4), steady=True, bound=50.0)
    inner = s.size(x, -1)
    if s.opset < 11:
        raise Declined("not in this opset")
    q, scale, zero = s.nodes("DynamicQuantizeLinear", x, outputs=3, bound=255.0)
    w, step = s.constant(s.arrays.integers(-127, 128, (inner, 4)).astype(np.int8)), s.constant(np.float32(0.01))
    joined = s.context.target == "onnxruntime" and s.chance(0.4)
    if joined:
        y = s.node("com.microsoft::MatMulIntegerToFloat", q, w, scale, step, zero, bound=200.0)
    else:
        y = s.node("Cast", s.node("MatMulInteger", q, w, zero), to=int(DType.FLOAT), bound=1e5)
        y = s.node("Mul", y, step if s.chance(0.3) else s.node("Mul", scale, step, bound=1.0), bound=200.0)
    if s.chance(0.8):
        s.node("Add", y, s.weight((4,)))


BLOCKS = ((round_trip, 2), (requantized, 2), (quantized_weight, 2), (layers, 3), (dynamic, 2))
