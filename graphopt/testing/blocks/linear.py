"""Convolutions, products, pools and normalizations, with the operators that fold into them before and after."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import DType, TensorType, Value
from ..sketch import WIDE, Sketch
from .elementwise import partner


def conv(s: Sketch) -> None:
    """Conv or ConvTranspose in one or two dimensions, grouped or padded or neither, then operators that fold into it"""
    x = s.pick(DType.FLOAT, ranks=(4, 3), where=lambda v: _fits_window(s, v))
    y = convolve(s, x)
    for _ in range(s.integer(0, 2)):
        y = after_linear(s, y)


def flat_conv(s: Sketch) -> None:
    """Conv as high as its input, or of one dimension as Keras exports it, then Squeeze, then operators that fold"""
    x = s.pick(DType.FLOAT, ranks=(4, 3), where=lambda v: _fits_window(s, v))
    if s.rank(x) == 3:
        x = s.with_axes("Unsqueeze", x, (2,), 13)
    channels, height, out = s.size(x, 1), s.size(x, 2), s.choose((1, 4))
    weight, bias = s.weight((out, channels, height, 3), low=-0.5, high=0.5), s.weight((out,)) if s.chance(0.5) else None
    y = s.node("Conv", x, weight, bias, pads=s.choose((None, (0, 1, 0, 1))))
    y = s.with_axes("Squeeze", y, (s.choose((2, -2)),), 13)
    for _ in range(s.integer(1, 3)):
        y = after_linear(s, y)


def scaled_input(s: Sketch) -> None:
    """Conv of a x + c, the usual scaling of an image, by channel or as a whole, with and without padding"""
    x = s.pick(DType.FLOAT, ranks=(4,), bound=50.0, where=lambda v: _fits_window(s, v))
    channels = s.size(x, 1)
    one, other = (s.weight(s.choose(((1,), (channels, 1, 1))), low=0.5, high=2.0) for _ in range(2))
    convolve(s, s.node(s.choose(("Add", "Sub")), s.node(s.choose(("Mul", "Div")), x, one), other))


def _fits_window(s: Sketch, v: Value) -> bool:
    shape = s.shape(v)
    return isinstance(shape[1], int) and all(isinstance(d, int) and d >= 3 for d in shape[2:])


def convolve(s: Sketch, x: Value) -> Value:
    """A convolution of `x`, f32[N,C,…]."""
    channels, dims = s.size(x, 1), s.rank(x) - 2
    kernel = s.choose((1, 3))
    group = s.choose((1, channels if channels <= 8 else 1, 2 if channels % 2 == 0 else 1))
    out = group * s.choose((1, 2, 4 if group == 1 else 1))
    attrs: dict[str, Any] = {"group": group, "kernel_shape": (kernel,) * dims if s.chance(0.5) else None}
    if s.chance(0.25):
        attrs["auto_pad"] = s.choose(("SAME_UPPER", "VALID"))
    elif s.chance(0.5):
        attrs["pads"] = (kernel // 2,) * (2 * dims)
    if s.chance(0.3):
        attrs["strides"] = (2,) * dims
    bias = s.weight((out,)) if s.chance(0.5) else None
    if s.chance(0.2) and "auto_pad" not in attrs:
        weight = s.weight((channels, out // group, *(kernel,) * dims), low=-0.5, high=0.5)
        return s.node("ConvTranspose", x, weight, bias, **attrs)
    weight = s.weight((out, channels // group, *(kernel,) * dims), low=-0.5, high=0.5)
    if s.chance(0.2):
        amounts = [0, 0, *(1,) * dims] * 2
        x = s.node("Pad", x, s.ints(*amounts))
    return s.node("Conv", x, weight, bias, **attrs)


def after_linear(s: Sketch, y: Value) -> Value:
    """BatchNormalization, a constant operand or an activation, each of which folds into a linear operator."""
    kind = s.choose(("norm", "Mul", "Add", "Relu", "Sub", "Div", "Clip"))
    if kind == "norm":
        return batch_norm(s, y)
    if kind == "Relu":
        return s.node("Relu", y)
    if kind == "Clip":
        return s.node("Clip", y, s.constant(0.0, s.dtype(y)), s.constant(6.0, s.dtype(y)))
    other = partner(s, y, low=0.5 if kind == "Div" else -1.0)
    first = kind in ("Add", "Mul", "Sub") and s.chance(0.3)
    return s.node(kind, *((other, y) if first else (y, other)), bound=s.facts[y].bound * 2 + 2)


def batch_norm(s: Sketch, x: Value) -> Value:
    """BatchNormalization of f32[N,C,…] with nontrivial statistics."""
    channels, dtype = s.size(x, 1), s.dtype(x)
    if dtype not in WIDE:
        raise Declined("not in single or double precision")
    parts = [s.weight((channels,), dtype, low, 1.5) for low in (0.5, -1.0, -1.0, 0.3)]
    epsilon = s.choose((None, 1e-3, 1e-2))
    return s.node("BatchNormalization", x, *parts, epsilon=epsilon, bound=s.facts[x].bound * 3 + 5)


def norm(s: Sketch) -> None:
    """BatchNormalization of anything, and a convolution after it"""
    x = s.pick(*WIDE, ranks=(2, 3, 4))
    y = batch_norm(s, x)
    if s.rank(y) == 4 and s.dtype(y) is DType.FLOAT and _fits_window(s, y) and s.chance(0.5):
        convolve(s, y)


def other_norms(s: Sketch) -> None:
    """InstanceNormalization, LayerNormalization, LRN, L2 normalization"""
    kind = s.choose(("InstanceNormalization", "LayerNormalization", "LRN", "LpNormalization"))
    if kind == "InstanceNormalization":
        x = s.pick(DType.FLOAT, ranks=(3, 4))
        channels = s.size(x, 1)
        if all(isinstance(d, int) and d < 2 for d in s.shape(x)[2:]):
            raise Declined("nothing to normalise over")
        s.node(kind, x, s.weight((channels,)), s.weight((channels,)), bound=8.0)
    elif kind == "LayerNormalization":
        x = s.pick(DType.FLOAT, ranks=(2, 3))
        width = s.size(x, -1)
        if width < 2:
            raise Declined("nothing to normalise over")
        shift = s.weight((width,)) if s.chance(0.6) else None
        scale = s.weight((width,)) if s.chance(0.5) else s.constant(np.ones(width), DType.FLOAT)
        y = s.node(kind, x, scale, shift, axis=-1, bound=8.0)
        for op in ("Mul", "Add"):
            if s.chance(0.4):
                y = s.node(op, y, s.weight((width,)), bound=9.0)
    elif kind == "LRN":
        s.node(kind, s.pick(DType.FLOAT, ranks=(4,)), size=3)
    else:
        x = s.pick(*WIDE, ranks=(2, 3))
        s.node(kind, s.node("Add", s.node("Abs", x), s.constant(0.5, s.dtype(x))), axis=-1, bound=1.0)


def product(s: Sketch) -> None:
    """MatMul or Gemm with a weight, then operators that fold into it"""
    x = s.pick(*WIDE, ranks=(2, 3))
    inner, width = s.size(x, -1), s.choose((4, 2, 6))
    dtype = s.dtype(x)
    if s.rank(x) == 2 and s.chance(0.5):
        y = _gemm(s, x, inner, width)
    else:
        y = s.node("MatMul", x, s.weight((inner, width), dtype))
        if s.chance(0.5):
            y = s.node("Add", *(y, s.weight((width,), dtype))[:: s.choose((1, -1))])
    for _ in range(s.integer(0, 2)):
        kind = s.choose(("Mul", "Add", "norm", "Div", "Relu"))
        if kind == "norm" and s.rank(y) == 2:
            y = batch_norm(s, y)
        elif kind == "Relu":
            y = s.node("Relu", y)
        else:
            kind = "Mul" if kind == "norm" else kind
            y = s.node(kind, y, s.weight(s.choose(((width,), (), (1,))), dtype, 0.5 if kind == "Div" else -1.0),
                       bound=s.facts[y].bound * 2 + 1)  # fmt: skip


def _gemm(s: Sketch, x: Value, inner: int, width: int) -> Value:
    dtype, transposed = s.dtype(x), s.chance(0.4)
    weight = s.weight((width, inner) if transposed else (inner, width), dtype)
    bias = s.weight(s.choose(((width,), (1, width), (1,), ())), dtype) if s.chance(0.7) else None
    scale = 0.5 if s.chance(0.3) else None
    if bias is not None and s.chance(0.2):
        bias = s.node("Neg", bias)
    return s.node("Gemm", x, weight, bias, alpha=scale, beta=0.5 if s.chance(0.3) else None, transB=int(transposed))


def two_products(s: Sketch) -> None:
    """A product of two computed matrices, one of them transposed, perhaps scaled"""
    x = s.pick(*WIDE, ranks=(2, 3, 4), bound=20.0)
    rank = s.rank(x)
    s.size(x, -1)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    same = [v for v in s.pool if v.type == x.type and s.facts[v].bound <= 20]
    factors = x, s.node("Transpose", s.choose(same), perm=perm)
    y = s.node("MatMul", *factors[:: s.choose((1, -1))])
    if s.chance(0.6):
        y = s.node(s.choose(("Div", "Mul")), y, s.constant(2.0, s.dtype(x)))
    if s.chance(0.6):
        s.node("Softmax", y, axis=-1)


def pools(s: Sketch) -> None:
    """MaxPool and AveragePool, padded or not, after a Pad, or over single elements; and global pools"""
    x = s.pick(DType.FLOAT, ranks=(4, 3), where=lambda v: _fits_window(s, v))
    dims = s.rank(x) - 2
    kind = s.choose(("MaxPool", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"))
    if kind.startswith("Global"):
        y = s.node(kind, x)
        if s.chance(0.6):
            s.node("Flatten", y, axis=1)
        return
    kernel = s.choose((2, 3, 1))
    attrs: dict[str, Any] = {"kernel_shape": (kernel,) * dims, "strides": (s.choose((1, 2)),) * dims}
    if kernel == 3 and s.chance(0.4):
        attrs["pads"] = (1,) * (2 * dims)
        attrs["count_include_pad"] = int(s.chance(0.5)) if kind == "AveragePool" else None
    elif s.chance(0.6):
        amounts = [0, 0, *(1,) * dims] * 2
        number = -np.inf if kind == "MaxPool" and s.chance(0.4) else 0.0
        if kind == "MaxPool" and number == 0.0 and s.chance(0.7):
            x = s.node("Relu", x)
        padded = s.node("Pad", x, s.ints(*amounts), s.constant(number, DType.FLOAT))
        s.facts[padded].bound = s.facts[x].bound
        s.node(kind, padded, **attrs, bound=s.facts[x].bound)
        s.pool.remove(padded)
        return
    s.node(kind, x, **attrs)


def softmax(s: Sketch) -> None:
    """Softmax and LogSoftmax"""
    x = s.pick(*WIDE, ranks=(2, 3), bound=50.0)
    s.node(s.choose(("Softmax", "LogSoftmax")), x, axis=-1)


def recurrent(s: Sketch) -> None:
    """LSTM, GRU and RNN over f32[S,N,D], from zero states spelled in several ways, or without an initial state"""
    x = s.pick(DType.FLOAT, ranks=(3,), bound=20.0)
    width, hidden = s.size(x, 2), 2
    op, gates = s.choose((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    w, r = s.weight((1, gates * hidden, width)), s.weight((1, gates * hidden, hidden))
    bias = s.weight((1, 2 * gates * hidden)) if s.chance(0.5) else None
    state = _zeros(s, x, hidden) if s.chance(0.7) else None
    cell = (state,) if op == "LSTM" and s.chance(0.7) else ()
    y = s.nodes(op, x, w, r, bias, None, state, *cell, outputs=2, hidden_size=hidden, bound=1.0)[0]
    if s.chance(0.6):
        s.with_axes("Squeeze", y, (1,), 13)


def _zeros(s: Sketch, x: Value, hidden: int) -> Value:
    """f32[1,N,H] of zeros for x of f32[S,N,D]."""
    batch = s.shape(x)[1]
    if isinstance(batch, int) and s.chance(0.6):
        return s.constant(np.zeros((1, batch, hidden)), DType.FLOAT)
    size = s.node("Slice", s.node("Shape", x), s.ints(1), s.ints(2))
    sizes = s.node("Concat", s.ints(1), size, s.ints(hidden), axis=0)
    zeros = s.node("ConstantOfShape", sizes, value=np.zeros(1, np.float32), bound=0.0)
    zeros.type = TensorType(DType.FLOAT, (1, batch, hidden))
    s.pool.remove(zeros)
    return zeros


def einsum(s: Sketch) -> None:
    """A product, permutation or sum, written as Einsum"""
    x = s.pick(DType.FLOAT, ranks=(3, 4), bound=20.0)
    letters = "abcd"[: s.rank(x)]
    if s.chance(0.5):
        kept = list(letters[: s.integer(1, len(letters))])
        s.rng.shuffle(kept)
        s.node("Einsum", x, equation=f"{letters}->{''.join(kept)}")
        return
    last = letters[-1]
    w = s.weight((s.size(x, -1), 3) if s.chance(0.5) else (3, s.size(x, -1)))
    second = f"{last}z" if s.shape(w)[0] == s.size(x, -1) else f"z{last}"
    result = letters[:-1] + "z" if s.chance(0.7) else "z" + letters[:-1]
    s.node("Einsum", x, w, equation=f"{letters},{second}->{result}", bound=100.0)


BLOCKS = (
    (conv, 10), (scaled_input, 2), (norm, 3), (other_norms, 3), (product, 7), (two_products, 2), (pools, 6),
    (softmax, 2), (recurrent, 1), (einsum, 4),
)  # fmt: skip
