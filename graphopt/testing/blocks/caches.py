"""Attention with a cache of earlier keys and values, as in exported decoders: grouped heads, rotary, masks, no past.

The cache is two inputs f32[N,G,P,D] of P ≥ 0 earlier tokens, and two results f32[N,G,P + S,D].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import Declined
from ...ir import Dim, DType, TensorType, Value
from ..sketch import Sketch
from .sizes import size_of

PAST = "P"
"""The symbolic length of a cache; that of all keys is written as exporters do, "P + S"."""

_HEADS, _SIZE = 4, 4
"""Query heads and their width: small, and enough for groups of 1, 2 and 4 and for halves to rotate."""

_TOLD = {"N", "S", 1, 2, 3, 4}
"""Batch sizes and lengths for which inputs can be made up."""


@dataclass(frozen=True, slots=True)
class _Step:
    """New tokens x f32[N,S,E] behind earlier ones: sizes, and their positions i64[S] among all keys i64[P + S]."""

    x: Value
    batch: Dim
    length: Dim
    keys: Dim
    positions: Value
    all_positions: Value


def cached(s: Sketch) -> None:
    """softmax(q [past k, k]T / sqrt d + mask) [past v, v]; the longer cache is a result"""
    if s.depth:
        raise Declined("caches are inputs of the model")
    x = _tokens(s)
    batch, length, _ = s.shape(x)
    groups = s.choose((2, 1, 4))
    q, k, v = (_heads(s, x, count) for count in (_HEADS, groups, groups))
    shape = batch, groups, PAST, _SIZE
    pasts = [s.add_input(f"past_{name}{len(s.facts)}", DType.FLOAT, shape) for name in ("keys", "values")]
    s.pool = [value for value in s.pool if value not in pasts]  # some operators reject empty tensors
    step = _step(s, x, batch, length, pasts[0])
    if s.chance(0.6):
        q, k = _rotated(s, step, q, k)
    if s.opset >= 23 and s.chance(0.3):
        out, keys, values = _operator(s, step, q, k, v, pasts)
    else:
        keys, values = (_joined(s, step, *pair) for pair in zip(pasts, (k, v)))
        out = _spelled(s, step, q, _repeated(s, keys, groups), _repeated(s, values, groups))
    s.results += [keys, values]
    out = s.node("Reshape", s.node("Transpose", out, perm=(0, 2, 1, 3)), s.ints(0, -1, _HEADS * _SIZE))
    out.type = TensorType(DType.FLOAT, (batch, length, _HEADS * _SIZE))
    s.node("MatMul", out, s.weight((_HEADS * _SIZE, s.choose((4, 8)))), bound=20.0)


def _tokens(s: Sketch) -> Value:
    """A value f32[N,S,E] of the pool with sizes in `_TOLD`, else a new input."""
    try:
        return s.pick(DType.FLOAT, ranks=(3,), bound=10.0, where=lambda v: set(s.shape(v)[:2]) <= _TOLD)
    except Declined:
        return s.add_input(f"tokens{len(s.facts)}", DType.FLOAT, ("N", "S", 4))


def _step(s: Sketch, x: Value, batch: Dim, length: Dim, past: Value) -> _Step:
    keys = f"{PAST} + {length}"
    earlier, new = size_of(s, past, 2), size_of(s, x, 1)
    total = s.node("Add", earlier, new)
    zero, one = s.constant(0, DType.INT64), s.constant(1, DType.INT64)
    scalars = [s.with_axes("Squeeze", size, (0,), 13) for size in (earlier, total)]
    positions = s.node("Range", *scalars, one, bound=16.0)
    positions.type = TensorType(DType.INT64, (length,))
    all_positions = s.node("Range", zero, scalars[1], one, bound=16.0)
    all_positions.type = TensorType(DType.INT64, (keys,))
    return _Step(x, batch, length, keys, positions, all_positions)


def _heads(s: Sketch, x: Value, count: int) -> Value:
    """f32[N,count,S,D] of f32[N,S,E]."""
    width = count * _SIZE
    y = s.node("MatMul", x, s.weight((s.size(x, 2), width), low=-0.3, high=0.3), bound=20.0)
    if s.chance(0.3):
        y = s.node("Add", y, s.weight((width,)), bound=20.0)
    y = s.node("Reshape", y, s.ints(0, 0, count, _SIZE))
    return s.node("Transpose", y, perm=(0, 2, 1, 3))


def _rotated(s: Sketch, step: _Step, *heads: Value) -> list[Value]:
    """Rotary embedding of heads at the positions of the new tokens (Su et al. 2021), the halves of a head as pairs."""
    numbers = s.node("Cast", s.with_axes("Unsqueeze", step.positions, (1,), 13), to=int(DType.FLOAT), bound=16.0)
    angles = s.node("Mul", numbers, s.weight((1, _SIZE // 2), low=0.1), bound=16.0)
    both = s.node("Concat", angles, angles, axis=-1)
    cosine, sine = s.node("Cos", both, bound=1.0), s.node("Sin", both, bound=1.0)
    if s.chance(0.5):
        cosine, sine = (s.with_axes("Unsqueeze", table, (0, 1), 13) for table in (cosine, sine))
    return [_turned(s, x, cosine, sine) for x in heads]


def _turned(s: Sketch, x: Value, cosine: Value, sine: Value) -> Value:
    half = _SIZE // 2
    a = s.node("Slice", x, s.ints(0), s.ints(half), s.ints(3))
    b = s.node("Slice", x, s.ints(half), s.ints((1 << 63) - 1), s.ints(3))
    turned = s.node("Concat", s.node("Neg", b), a, axis=-1)
    return s.node("Add", s.node("Mul", x, cosine, bound=20.0), s.node("Mul", turned, sine, bound=20.0), bound=20.0)


def _joined(s: Sketch, step: _Step, past: Value, new: Value) -> Value:
    whole = s.node("Concat", past, new, axis=s.choose((2, -2)))
    whole.type = TensorType(DType.FLOAT, (step.batch, s.size(new, 1), step.keys, _SIZE))
    return whole


def _repeated(s: Sketch, heads: Value, groups: int) -> Value:
    """The heads of the cache repeated for all queries of their group, by Expand."""
    if groups == _HEADS:
        return heads
    batch, _, keys, _ = s.shape(heads)
    more = s.with_axes("Unsqueeze", heads, (2,), 13)
    target = s.constant(np.array([1, 1, _HEADS // groups, 1, 1], np.int64))
    more = s.node("Expand", more, target)
    more.type = TensorType(DType.FLOAT, (batch, groups, _HEADS // groups, keys, _SIZE))
    joined = s.node("Reshape", more, s.ints(0, _HEADS, -1, _SIZE))
    joined.type = TensorType(DType.FLOAT, (batch, _HEADS, keys, _SIZE))
    return joined


def _spelled(s: Sketch, step: _Step, q: Value, k: Value, v: Value) -> Value:
    """Attention in small operators, with a mask by Add or Where, and a guard for rows without a key."""
    scores = s.node("MatMul", q, s.node("Transpose", k, perm=(0, 1, 3, 2)), bound=30.0)
    scores = s.node("Mul", scores, s.constant(_SIZE**-0.5, DType.FLOAT), bound=30.0)
    lowest: float = s.choose((float(np.finfo(np.float32).min), -np.inf, -1e4))
    allowed = _allowed(s, step)
    if allowed is not None:
        shut = s.constant(lowest, DType.FLOAT)
        if s.chance(0.7):
            bias = s.node("Where", allowed, s.constant(0.0, DType.FLOAT), shut, bound=30.0)
            scores = s.node("Add", scores, bias, bound=30.0)
        else:
            scores = s.node("Where", allowed, scores, shut, bound=30.0)
    share = s.node("Softmax", scores, axis=-1)
    if allowed is not None and lowest == -np.inf:  # a row without a key is NaN
        share = s.node("Where", s.node("IsNaN", share), s.constant(0.0, DType.FLOAT), share, bound=1.0)
    return s.node("MatMul", share, v, bound=20.0)


def _allowed(s: Sketch, step: _Step) -> Value | None:
    """A mask bool[1 or N,1,S or 1,P + S] by positions, by padding, or both; padding may leave a row without a key."""
    kind = s.choose(("both", "padding", "positions", "none"))
    if kind == "none":
        return None
    late = s.with_axes("Unsqueeze", step.positions, (1,), 13)
    causal = s.node("LessOrEqual" if s.opset >= 12 else "Less", step.all_positions, late)
    causal.type = TensorType(DType.BOOL, (step.length, step.keys))  # shape inference of LessOrEqual starts at opset 16
    causal = s.with_axes("Unsqueeze", causal, (0, 1), 13)
    if kind == "positions":
        return causal
    seen = s.add_input(f"seen{len(s.facts)}", DType.INT64, (step.batch, step.keys))
    padding = s.node("Greater", seen, s.constant(0, DType.INT64))
    padding = s.with_axes("Unsqueeze", padding, (1, 2), 13)
    return padding if kind == "padding" else s.node("And", causal, padding)


def _operator(s: Sketch, step: _Step, q: Value, k: Value, v: Value, pasts: list[Value]) -> tuple[Value, ...]:
    """The operator of opset 23, which appends to the cache itself."""
    causal = {"is_causal": 1} if s.chance(0.5) else {}
    out, keys, values = s.nodes("Attention", q, k, v, None, *pasts, outputs=3, bound=20.0, **causal)
    out.type = TensorType(DType.FLOAT, (step.batch, _HEADS, step.length, _SIZE))
    for value, new in ((keys, k), (values, v)):
        value.type = TensorType(DType.FLOAT, (step.batch, s.size(new, 1), step.keys, _SIZE))
    return out, keys, values


BLOCKS = ((cached, 8),)
