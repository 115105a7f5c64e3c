"""Attention as torch's nn.MultiheadAttention spells it: time first, heads in the axis of the batch."""

from __future__ import annotations

from ...errors import Declined
from ...ir import DType, Value
from ..sketch import Sketch


def _projections(s: Sketch) -> tuple[Value, ...]:
    """Queries, keys and values f32[S,B,E] of one product f32[S,B,3E], by Split or by Gather from an axis of three."""
    x = s.pick(DType.FLOAT, ranks=(3,), bound=10.0, where=lambda v: all(isinstance(d, int) for d in s.shape(v)[1:]))
    length, width = s.size(x, 1), s.size(x, 2)
    time_first = s.node("Transpose", x, perm=(1, 0, 2))
    h = s.node("MatMul", time_first, s.weight((width, 3 * width), low=-0.3, high=0.3))
    if s.opset >= 13 and s.chance(0.5):
        return s.nodes("Split", h, s.ints(width, width, width), outputs=3, axis=2)
    h = s.node("Reshape", h, s.ints(length, -1, 3, width))
    h = s.node("Transpose", s.with_axes("Unsqueeze", h, (0,), 13), perm=(3, 1, 2, 0, 4))
    h = s.with_axes("Squeeze", h, (s.choose((-2, 3)),), 13)
    return tuple(s.node("Gather", h, s.constant(i, DType.INT64), axis=0) for i in range(3))


def time_first(s: Sketch) -> None:
    """softmax(q kT / sqrt d) v over heads that lie in the axis of the batch"""
    q, k, v = _projections(s)
    length, width = s.size(q, 0), s.size(q, 2)
    if width % 2:
        raise Declined("no heads")
    size = width // 2

    def rows(x: Value) -> Value:
        return s.node("Transpose", s.node("Reshape", x, s.ints(length, -1, size)), perm=(1, 0, 2))

    def heads(x: Value) -> Value:
        return s.node("Reshape", x, s.ints(-1, 2, length, size))

    if s.chance(0.5):
        keys = s.node("Transpose", heads(rows(k)), perm=(0, 1, 3, 2))
    else:
        keys = s.node("Reshape", s.node("Transpose", rows(k), perm=(0, 2, 1)), s.ints(-1, 2, size, length))
    scores = s.node("Mul", s.node("MatMul", heads(rows(q)), keys), s.constant(0.5, DType.FLOAT), bound=30.0)
    o = s.node("MatMul", s.node("Softmax", scores, axis=3), heads(rows(v)))
    o = s.node("Transpose", o, perm=(2, 0, 1, 3))
    if s.chance(0.5):
        o = s.node("MatMul", s.node("Reshape", o, s.ints(0, 0, width)), s.weight((width, width)))
    else:
        o = s.node("Gemm", s.node("Reshape", o, s.ints(-1, width)), s.weight((width, width)), s.weight((width,)))
        o = s.node("Reshape", o, s.ints(length, -1, width))
    s.node("Transpose", o, perm=(1, 0, 2))


def rows_of_gemm(s: Sketch) -> None:
    """A product of the rows of three axes by Gemm"""
    x = s.pick(DType.FLOAT, ranks=(3,), bound=20.0)
    length, width = s.size(x, 1), s.size(x, 2)
    y = s.node("Gemm", s.node("Reshape", x, s.ints(-1, width)), s.weight((width, 4)), s.weight((4,)))
    s.node("Reshape", y, s.ints(-1, length, 4))


BLOCKS = ((time_first, 5), (rows_of_gemm, 2))
