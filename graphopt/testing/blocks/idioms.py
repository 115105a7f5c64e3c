"""Compound functions as exporters spell them in small operators: activations, normalizations, attention, rotary."""

from __future__ import annotations

import math

import numpy as np

from ...errors import Declined
from ...ir import DType, Value
from ..sketch import WIDE, Sketch
from .linear import flat_conv


def _both(s: Sketch, op: str, a: Value, b: Value, bound: float | None = None) -> Value:
    """A commutative operator, in either order."""
    return s.node(op, *((b, a) if s.chance(0.4) else (a, b)), bound=bound)


def swish(s: Sketch) -> None:
    """x sigmoid(x), the quick GELU x sigmoid(1.702 x), and x clip(x + 3, 0, 6) / 6"""
    x = s.pick(*(WIDE if s.opset >= 12 else (DType.FLOAT,)), bound=50.0)
    dtype, kind = s.dtype(x), s.choose(("swish", "quick", "hard", "hard sigmoid"))
    if kind == "swish":
        _both(s, "Mul", x, s.node("Sigmoid", x))
    elif kind == "quick":
        _both(s, "Mul", x, s.node("Sigmoid", _both(s, "Mul", x, s.constant(1.702, dtype))))
    elif kind == "hard":
        _hard(s, x, multiplied=True)
    else:
        _hard(s, x, multiplied=False)


def _hard(s: Sketch, x: Value, multiplied: bool) -> None:
    dtype = s.dtype(x)
    gate = _both(s, "Add", x, s.constant(3.0, dtype))
    gate = s.node("Clip", gate, s.constant(0.0, dtype), s.constant(6.0, dtype), bound=6.0)
    if multiplied and s.chance(0.5):
        gate = _both(s, "Mul", x, gate)
        multiplied = False
    gate = (
        s.node("Div", gate, s.constant(6.0, dtype)) if s.chance(0.6) else s.node("Mul", gate, s.constant(1 / 6, dtype))
    )
    if multiplied:
        _both(s, "Mul", x, gate)


def hard_sigmoid(s: Sketch) -> None:
    """x HardSigmoid(x) = HardSwish(x)"""
    x = s.pick(DType.FLOAT, bound=50.0)
    _both(s, "Mul", x, s.node("HardSigmoid", x, alpha=s.choose((1 / 6, 0.2)), beta=0.5))


def gelu(s: Sketch) -> None:
    """x (1 + erf(x / sqrt 2)) / 2, and its approximation by tanh"""
    x = s.pick(DType.FLOAT, bound=20.0)
    dtype = s.dtype(x)
    if s.chance(0.3) and s.rank(x):
        x = _both(s, "Add", x, s.weight((s.size(x, -1),)))
    half, one = s.constant(0.5, dtype), s.constant(1.0, dtype)
    if s.chance(0.4):
        cube = s.node("Pow", x, s.constant(3.0, dtype), bound=s.facts[x].bound ** 3)
        inner = _both(s, "Add", x, _both(s, "Mul", cube, s.constant(0.044715, dtype)))
        gate = s.node("Tanh", _both(s, "Mul", inner, s.constant(math.sqrt(2 / math.pi), dtype)))
    else:
        root = s.constant(math.sqrt(2), dtype)
        scaled = s.node("Div", x, root) if s.chance(0.6) else _both(s, "Mul", x, s.constant(1 / math.sqrt(2), dtype))
        gate = s.node("Erf", scaled)
    gate = _both(s, "Add", gate, one)
    if s.chance(0.5):
        _both(s, "Mul", _both(s, "Mul", x, gate), half)
    else:
        _both(s, "Mul", x, _both(s, "Mul", gate, half))


def mish(s: Sketch) -> None:
    """x tanh(softplus(x)), softplus also as log(1 + exp x)"""
    x = s.pick(DType.FLOAT, bound=8.0)
    if s.chance(0.5):
        soft = s.node("Softplus", x)
    else:
        grown = s.node("Exp", x, bound=60.0)
        soft = s.node("Log", _both(s, "Add", grown, s.constant(1.0, s.dtype(x))), bound=9.0)
    if s.chance(0.8):
        _both(s, "Mul", x, s.node("Tanh", soft))


def small_activations(s: Sketch) -> None:
    """LeakyRelu as Max, PRelu, Relu as Max or as x (x > 0), |x| as sqrt(x x)"""
    x = s.pick(DType.FLOAT, bound=8.0)
    dtype = s.dtype(x)
    kind = s.choose(("leaky", "max", "prelu", "relu", "abs"))
    if kind == "leaky":
        s.node("Max", x, _both(s, "Mul", x, s.constant(0.1, dtype)))
    elif kind == "max":
        s.node("Max", x, s.constant(0.0, dtype))
    elif kind == "prelu":
        s.node("PRelu", x, s.constant(np.full(s.choose(((), (1,)) if s.rank(x) else ((),)), 0.25), dtype))
    elif kind == "relu":
        _both(s, "Mul", x, s.node("Cast", s.node("Greater", x, s.constant(0.0, dtype)), to=int(dtype)))
    else:
        s.node("Sqrt", s.node("Mul", x, x), bound=s.facts[x].bound)


def layer_norm(s: Sketch) -> None:
    """(x - mean) / sqrt(var + eps) scaled and shifted; without the mean (RMSNorm); with the square as Pow or Mul"""
    x = s.pick(*WIDE, ranks=(2, 3), bound=50.0)
    dtype, width = s.dtype(x), s.size(x, -1)
    if width < 2:
        raise Declined("nothing to normalise over")
    axis, centred = (-1,) if s.chance(0.6) else (s.rank(x) - 1,), s.chance(0.6)
    h = s.node("Sub", x, s.with_axes("ReduceMean", x, axis, 18, keepdims=1)) if centred else x
    square = (
        s.node("Pow", h, s.constant(2.0, dtype), bound=s.facts[h].bound ** 2) if s.chance(0.6) else s.node("Mul", h, h)
    )
    variance = s.with_axes("ReduceMean", square, axis, 18, keepdims=1)
    root = s.node("Sqrt", _both(s, "Add", variance, s.constant(s.choose((1e-5, 1e-3)), dtype)))
    if s.chance(0.6):
        y = s.node("Div", h, root, bound=6.0)
    else:
        y = _both(s, "Mul", h, s.node("Reciprocal", root, bound=300.0), bound=6.0)
    if s.chance(0.8):
        y = _both(s, "Mul", y, s.weight((width,), dtype))
        if s.chance(0.8):
            _both(s, "Add", y, s.weight((width,), dtype))


def softmax(s: Sketch) -> None:
    """exp(x - max x) / sum(exp(x - max x)), and its logarithm"""
    x = s.pick(DType.FLOAT, ranks=(2, 3), bound=20.0)
    axis = (s.choose((-1, s.rank(x) - 1)),)
    lowered = s.node("Sub", x, s.with_axes("ReduceMax", x, axis, 18, keepdims=1))
    grown = s.node("Exp", lowered, bound=1.0)
    y = s.node("Div", grown, s.with_axes("ReduceSum", grown, axis, 13, keepdims=1), bound=1.0)
    if s.chance(0.3):
        s.node("Log", _both(s, "Add", y, s.constant(0.01, DType.FLOAT)), bound=5.0)


def l2_normalised(s: Sketch) -> None:
    """x / ||x||, x / max(||x||, eps)"""
    x = s.pick(DType.FLOAT, ranks=(2, 3), bound=50.0)
    dtype = s.dtype(x)
    if s.size(x, -1) < 2:
        raise Declined("nothing to normalise over")
    length = s.with_axes("ReduceL2", x, (-1,), 18, keepdims=1)
    low = s.constant(s.choose((1e-12, 1e-2)), dtype)
    length = s.node("Clip", length, low) if s.chance(0.5) else s.node("Max", length, low)
    s.node("Div", x, length, bound=1.0)


def instance_norm(s: Sketch) -> None:
    """Normalization over the image, and over groups of channels by way of Reshape and InstanceNormalization"""
    x = s.pick(DType.FLOAT, ranks=(4,), bound=50.0)
    channels, height, width = (s.size(x, a) for a in (1, 2, 3))
    if height * width < 2:
        raise Declined("nothing to normalise over")
    if channels % 2 == 0 and s.chance(0.6):
        y = s.node("Reshape", x, s.ints(0, 2, -1))
        ones, zeros = s.constant(np.ones(2), DType.FLOAT), s.constant(np.zeros(2), DType.FLOAT)
        y = s.node("InstanceNormalization", y, ones, zeros, bound=8.0)
        batch = s.shape(x)[0]
        y = s.node("Reshape", y, s.ints(batch if isinstance(batch, int) else -1, channels, height, width))
    else:
        h = s.node("Sub", x, s.with_axes("ReduceMean", x, (2, 3), 18, keepdims=1))
        square = s.node("Mul", h, h)
        variance = s.with_axes("ReduceMean", square, (2, 3), 18, keepdims=1)
        y = s.node("Div", h, s.node("Sqrt", s.node("Add", variance, s.constant(1e-5, DType.FLOAT))), bound=8.0)
    y = _both(s, "Mul", y, s.weight((channels, 1, 1)))
    _both(s, "Add", y, s.weight((channels, 1, 1)))


def attention(s: Sketch) -> None:
    """softmax(q kT / sqrt d + mask) v over heads, from one sequence f32[N,S,D]"""
    x = s.pick(DType.FLOAT, ranks=(3,), bound=10.0)
    width = s.size(x, -1)
    if width % 2:
        raise Declined("no heads")
    heads, depth = 2, width // 2
    q, k, v = (_heads(s, x, width, heads, depth) for _ in range(3))
    k = s.node("Transpose", k, perm=(0, 1, 3, 2))
    scale = s.constant(math.sqrt(depth), DType.FLOAT)
    if s.chance(0.3):
        q = s.node("Div", q, scale)
        scores = s.node("MatMul", q, k)
    else:
        scores = s.node("MatMul", q, k)
        scores = (
            s.node("Div", scores, scale)
            if s.chance(0.6)
            else s.node("Mul", scores, s.constant(depth**-0.5, DType.FLOAT))
        )
    if s.chance(0.3):
        scores = s.node("Add", scores, s.constant(np.zeros((1, 1, 1, 1)), DType.FLOAT))
    y = s.node("MatMul", s.node("Softmax", scores, axis=s.choose((-1, 3))), v, bound=10.0)
    y = s.node("Transpose", y, perm=(0, 2, 1, 3))
    s.node("Reshape", y, s.ints(0, 0, width), bound=10.0)


def _heads(s: Sketch, x: Value, width: int, heads: int, depth: int) -> Value:
    y = s.node("MatMul", x, s.weight((width, width)), bound=20.0)
    if s.chance(0.7):
        y = s.node("Add", y, s.weight((width,)), bound=20.0)
    return s.node("Transpose", s.node("Reshape", y, s.ints(0, 0, heads, depth)), perm=(0, 2, 1, 3))


def rotary(s: Sketch) -> None:
    """x cos + rotate(x) sin, rotate by Slice, Neg and Concat"""
    x = s.pick(DType.FLOAT, ranks=(2, 3, 4), bound=20.0)
    width = s.size(x, -1)
    if width % 2:
        raise Declined("no halves")
    turned = _turned(s, x, width)
    length = s.shape(x)[-2]
    if s.rank(x) == 4 and isinstance(length, int) and s.chance(0.6):
        halves = s.arrays.uniform(-1, 1, (2, length, width // 2)).astype(np.float32)
        cosine, sine = (s.constant(np.concatenate((half, half), 1)) for half in halves)
    else:
        cosine, sine = s.weight((width,)), s.weight((width,))
    _both(s, "Add", _both(s, "Mul", x, cosine), _both(s, "Mul", turned, sine), bound=40.0)


def _turned(s: Sketch, x: Value, width: int) -> Value:
    """[-x2, x1] of the halves of the last axis, which Slice or Split takes"""
    last = s.rank(x) - 1
    if s.chance(0.5):
        a = s.node("Slice", x, s.ints(0), s.ints(width // 2), s.ints(last))
        b = s.node("Slice", x, s.ints(width // 2), s.ints((1 << 63) - 1), s.ints(-1 if s.chance(0.1) else last))
    elif s.opset >= 13:
        a, b = s.nodes("Split", x, s.ints(width // 2, width // 2), outputs=2, axis=last)
    else:
        a, b = s.nodes("Split", x, outputs=2, axis=last)
    return s.node("Concat", s.node("Neg", b), a, axis=s.choose((-1, last)))


def rotary_heads(s: Sketch) -> None:
    """`rotary` over heads f32[N,H,S,D], with cosines and sines whose halves are equal"""
    x = s.pick(DType.FLOAT, ranks=(4,), bound=20.0)
    length, width = s.size(x, 2), s.size(x, 3)
    if width % 2:
        raise Declined("no halves")
    turned = _turned(s, x, width)
    half = s.arrays.uniform(-1, 1, (2, 1, 1, length, width // 2))
    cos, sin = (s.constant(np.concatenate([table, table], -1), DType.FLOAT) for table in half)
    _both(s, "Add", _both(s, "Mul", x, cos), _both(s, "Mul", turned, sin), bound=40.0)


def rotary_tokens(s: Sketch) -> None:
    """`rotary` over heads f32[N,H,S,D], with a computed angle for each token of each row, f32[N,S,D/2]"""
    if s.opset >= 23 and s.chance(0.5):
        rotary_part(s)
        return
    x = s.pick(DType.FLOAT, ranks=(4,), bound=20.0, where=lambda v: all(isinstance(d, int) for d in s.shape(v)[1:]))
    width = s.size(x, 3)
    if width % 2:
        raise Declined("no halves")
    first = s.node("Slice", x, s.ints(0, 0), s.ints(1, width // 2), s.ints(1, 3))
    angles = s.with_axes("Squeeze", first, (1,), 13)
    whole = s.node("Concat", angles, angles, axis=-1)
    cos, sin = (s.with_axes("Unsqueeze", s.node(op, whole), (1,), 13) for op in ("Cos", "Sin"))
    turned = _turned(s, x, width)
    _both(s, "Add", _both(s, "Mul", x, cos), _both(s, "Mul", turned, sin), bound=40.0)


def rotary_part(s: Sketch) -> None:
    """The operator on the first elements of heads f32[2,2,3,8] alone, which Slice or Split takes"""
    heads = s.node("Add", s.weight((2, 2, 3, 8)), s.node("ReduceMean", s.pick(DType.FLOAT, bound=20.0), keepdims=0))
    if s.chance(0.5):
        first, rest = s.nodes("Split", heads, s.ints(4, 4), outputs=2, axis=3)
    else:
        ends = ((0, 4), (4, (1 << 63) - 1))
        first, rest = (s.node("Slice", heads, s.ints(start), s.ints(end), s.ints(3)) for start, end in ends)
    turned = s.node("RotaryEmbedding", first, s.weight((2, 3, 2)), s.weight((2, 3, 2)), bound=40.0)
    s.node("Concat", turned, rest, axis=-1, bound=40.0)


def norm_of_sums(s: Sketch) -> None:
    """layer_norm((x + b) + skip), as it ends blocks of transformers; x is no product that would take the bias in"""
    skip = s.pick(DType.FLOAT, ranks=(3,), bound=20.0)
    width = s.size(skip, 2)
    x = s.node(s.choose(("Tanh", "Sigmoid", "Abs")), skip)
    total = _both(s, "Add", _both(s, "Add", x, s.weight((width,))), skip)
    gamma, beta = s.weight((width,), low=0.5), s.weight((width,))
    s.node("LayerNormalization", total, gamma, *((beta,) if s.chance(0.7) else ()), axis=-1, bound=4.0)


def shuffle(s: Sketch) -> None:
    """Channel shuffle: Reshape, Transpose, Reshape"""
    x = s.pick(DType.FLOAT, ranks=(4,))
    batch, channels, height, width = s.shape(x)[0], *(s.size(x, a) for a in (1, 2, 3))
    if channels % 2 or channels < 4:
        raise Declined("no groups")
    first = batch if isinstance(batch, int) else s.choose((0, -1))
    y = s.node("Reshape", x, s.ints(first, 2, channels // 2, height, width))
    y = s.node("Transpose", y, perm=(0, 2, 1, 3, 4))
    s.node("Reshape", y, s.ints(first, channels, height, width))


def squeeze_excite(s: Sketch) -> None:
    """x sigmoid(f(mean x)) over channels"""
    x = s.pick(DType.FLOAT, ranks=(4,), bound=50.0)
    channels = s.size(x, 1)
    h = s.node("GlobalAveragePool", x) if s.chance(0.5) else s.with_axes("ReduceMean", x, (2, 3), 18, keepdims=1)
    h = s.node("Relu", s.node("Conv", h, s.weight((2, channels, 1, 1)), s.weight((2,))))
    gate = s.node(s.choose(("Sigmoid", "HardSigmoid")), s.node("Conv", h, s.weight((channels, 2, 1, 1))))
    _both(s, "Mul", x, gate)


BLOCKS = (
    (swish, 4), (hard_sigmoid, 1), (gelu, 3), (mish, 2), (small_activations, 3), (layer_norm, 5), (softmax, 2),
    (l2_normalised, 2), (instance_norm, 2), (attention, 2), (rotary, 2),
    (rotary_heads, 2), (rotary_tokens, 8), (norm_of_sums, 3), (shuffle, 2), (squeeze_excite, 2), (flat_conv, 4),
)  # fmt: skip
