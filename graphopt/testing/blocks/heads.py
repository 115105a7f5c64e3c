"""Attention as torch's nn.MultiheadAttention spells it, attention with masks, embeddings tied to the head."""

from __future__ import annotations

import numpy as np

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


def masked(s: Sketch) -> None:
    """softmax(q kT / sqrt d + mask) v, where some rows of the mask exclude every key, by -inf or a large number"""
    x = s.pick(DType.FLOAT, ranks=(3,), bound=10.0, where=lambda v: all(isinstance(d, int) for d in s.shape(v)[1:]))
    length, width = s.size(x, 1), s.size(x, 2)
    if width % 2:
        raise Declined("no heads")
    size = width // 2

    def heads(perm: tuple[int, ...]) -> Value:
        h = s.node("MatMul", x, s.weight((width, width), low=-0.3, high=0.3), bound=20.0)
        return s.node("Transpose", s.node("Reshape", h, s.ints(0, length, 2, size)), perm=perm)

    q, k, v = heads((0, 2, 1, 3)), heads((0, 2, 3, 1)), heads((0, 2, 1, 3))
    scores = s.node("Mul", s.node("MatMul", q, k, bound=30.0), s.constant(size**-0.5, DType.FLOAT), bound=30.0)
    lowest: float = s.choose((float(np.finfo(np.float32).min), -1e4, -np.inf))
    closed = _closed(s, x, length, all_keys=lowest > -np.inf)
    computed = closed.constant is None
    if closed.constant is not None and s.chance(0.5):
        mask = s.constant(np.where(closed.constant.array(), lowest, 0.0), DType.FLOAT)
        scores = s.node("Add", *(scores, mask)[:: s.choose((1, -1))], bound=30.0)
    elif s.chance(0.5) and lowest > -np.inf:
        mask = s.node("Mul", s.node("Cast", closed, to=int(DType.FLOAT)), s.constant(lowest, DType.FLOAT), bound=30.0)
        scores = s.node("Add", scores, mask, bound=30.0)
    else:
        scores = s.node("Where", closed, s.constant(lowest, DType.FLOAT), scores, bound=30.0)
    share = s.node("Softmax", scores, axis=-1)
    if lowest == -np.inf and (computed or s.chance(0.5)):
        zero = s.constant(np.float32(0))
        share = s.node("Where", s.node("IsNaN", share), zero, share, bound=1.0)
    o = s.node("Transpose", s.node("MatMul", share, v, bound=20.0), perm=(0, 2, 1, 3))
    s.node("MatMul", s.node("Reshape", o, s.ints(0, length, width)), s.weight((width, width)))


def _closed(s: Sketch, x: Value, length: int, all_keys: bool) -> Value:
    """bool, True where a key is masked: constant [1,1,S,S] or [1,1,1,S], or computed [N,1,1,S] like padding.

    all_keys: constant masks may have rows that are True throughout; computed masks always may.
    """
    if s.facts[x].steady and s.chance(0.4):
        first = s.node("Slice", x, s.ints(0), s.ints(1), s.ints(2))
        first = s.node("Reshape", first, s.ints(-1, 1, 1, length))
        return s.node("Less", first, s.constant(np.float32(0.5)))
    rows = s.choose((length, 1))
    closed = s.arrays.random((1, 1, rows, length)) < 0.4
    closed[..., 0] = False
    if all_keys and s.chance(0.6):
        closed[:, :, -1, :] = True
    return s.constant(closed)


def tied(s: Sketch) -> None:
    """Gather from an embedding f32[V,D], and logits h ET by the same tensor: through Transpose, Gemm or a copy"""
    rows, width = 10, 4  # ids lie within -9 and 9
    embedding = s.weight((rows, width))
    ids = s.pick(DType.INT64, DType.INT32, steady=True, where=lambda v: s.facts[v].bound < rows)
    h = s.node("Gather", embedding, ids, axis=0)
    for _ in range(s.integer(0, 2)):
        op = s.choose(("Mul", "Add", "Tanh", "MatMul"))
        others = {"MatMul": [(width, width)], "Tanh": []}.get(op, [(width,)])
        h = s.node(op, h, *map(s.weight, others), bound=s.facts[h].bound * 2 + 1)
    if s.rank(h) == 2 and s.chance(0.4):
        s.node("Gemm", h, embedding, None, transB=1)
        return
    head = s.node("Transpose", embedding, perm=(1, 0))
    if s.chance(0.3) and embedding.constant is not None:
        head = s.constant(embedding.constant.array().T.copy())
    logits = s.node("MatMul", h, head)
    if s.chance(0.3):
        s.node("MatMul", h, s.node("Transpose", embedding, perm=(1, 0)))
    if s.chance(0.3):
        s.node("Add", logits, s.weight((rows,)))


BLOCKS = ((time_first, 5), (rows_of_gemm, 2), (masked, 4), (tied, 3))
