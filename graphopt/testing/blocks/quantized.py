"""Quantized spellings: QuantizeLinear and DequantizeLinear around operators, weights stored in 8 bits."""

from __future__ import annotations

import numpy as np

from ...ir import DType, Value
from ..sketch import Misfit, Sketch


def _scale(s: Sketch) -> Value:
    return s.constant(np.float32(s.choose((0.0625, 0.125, 0.03125))))


def round_trip(s: Sketch) -> Value:
    """Quantize and dequantize a value that no rewrite may move; perhaps twice, perhaps with a move in between"""
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


def weight(s: Sketch) -> None:
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


def dynamic(s: Sketch) -> None:
    """DynamicQuantizeLinear and an integer product"""
    x = s.pick(DType.FLOAT, ranks=(2,), steady=True, bound=50.0)
    inner = s.size(x, -1)
    if s.opset < 11:
        raise Misfit("not in this opset")
    q, scale, zero = s.nodes("DynamicQuantizeLinear", x, outputs=3, bound=255.0)
    w = s.constant(s.arrays.integers(-127, 128, (inner, 4)).astype(np.int8))
    y = s.node("Cast", s.node("MatMulInteger", q, w, zero), to=int(DType.FLOAT), bound=1e5)
    s.node("Mul", y, s.node("Mul", scale, s.constant(np.float32(0.01)), bound=1.0), bound=200.0)


BLOCKS = ((round_trip, 2), (weight, 2), (dynamic, 1))
