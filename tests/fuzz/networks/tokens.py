"""Layers over tokens of (length, depth): products, norms, attention over caches, recurrent layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from .net import Net, activation, binary, pair


def _linear(s: Net) -> None:
    depth, width = s.shape[1], s.one(8, 16, 32, 24)
    y = s.node("MatMul", s.last, s.weight(depth, width, low=-(depth**-0.5), high=depth**-0.5))
    if s.chance(0.6):
        bias = s.weight(width)
        y = s.node("Add", *((y, bias) if s.chance(0.7) else (bias, y)))
    s.step(y, (s.shape[0], width))


def _token_norm(s: Net) -> None:
    depth, kind = s.shape[1], int(s.rng.integers(4))
    if kind == 0 and s.opset >= 17:
        y = s.node("LayerNormalization", s.last, s.weight(depth, low=0.5, high=1.5), s.weight(depth), axis=-1)
    elif kind == 1 and s.opset >= 23:
        y = s.node("RMSNormalization", s.last, s.weight(depth, low=0.5, high=1.5), axis=-1)
    else:
        axes = {"axes": [-1]} if s.opset < 18 else {}
        operand = () if s.opset < 18 else (s.ints(-1),)
        x = s.last if kind == 2 else s.node("Sub", s.last, s.node("ReduceMean", s.last, *operand, keepdims=1, **axes))
        square = s.node("Mul", x, x) if s.chance(0.5) else s.node("Pow", x, s.constant(np.float32(2)))
        m = s.node("ReduceMean", square, *operand, keepdims=1, **axes)
        root = s.node("Sqrt", s.node("Add", m, s.constant(np.float32(1e-5))))
        y = s.node("Mul", s.node("Div", x, root), s.weight(depth, low=0.5, high=1.5))
    s.step(y)


def _gated(s: Net) -> None:
    depth = s.shape[1]
    a, b = (s.node("MatMul", s.last, s.weight(depth, 16, low=-0.5, high=0.5)) for _ in range(2))
    s.step(s.node("Mul", s.node("Mul", a, s.node("Sigmoid", a)), b), (s.shape[0], 16))


def _heads(s: Net, count: int, size: int) -> str:
    y = s.node("MatMul", s.last, s.weight(s.shape[1], count * size, low=-0.5, high=0.5))
    y = s.node("Reshape", y, s.ints(0, -1, count, size))
    return str(s.node("Transpose", y, perm=[0, 2, 1, 3]))


def _attention(s: Net) -> None:
    """Attention spelled, or as operator over a cache, with rotary embeddings."""
    size, queries = 8, 4
    keys = s.one(2, 4) if s.opset >= 23 else 4
    q, k, v = _heads(s, queries, size), _heads(s, keys, size), _heads(s, keys, size)
    cached = s.opset >= 23 and s.chance(0.6)
    if s.opset >= 23 and s.chance(0.5):
        angles = s.rng.uniform(0, 6, (64, size // 2)).astype(np.float32)
        tables = s.constant(np.cos(angles)), s.constant(np.sin(angles))
        q, k = (s.node("RotaryEmbedding", t, *tables, _positions(s), interleaved=s.one(0, 1)) for t in (q, k))
    if s.opset >= 23 and (cached or keys != queries or s.chance(0.4)):
        if cached:
            index = len(s.inputs)
            for name in (f"pk{index}", f"pv{index}"):
                s.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", keys, "P", size]))
            y, nk, nv = s.node("Attention", q, k, v, "", f"pk{index}", f"pv{index}", outputs=3, is_causal=1)
            s.give(nk, rank=4)
            s.give(nv, rank=4)
        else:
            y = s.node("Attention", q, k, v, is_causal=s.one(0, 1))
    else:
        t = s.node("MatMul", q, s.node("Transpose", k, perm=[0, 1, 3, 2]))
        t = s.node("Div", t, s.constant(np.float32(size**0.5)))
        p = s.node("Softmax", t, axis=-1)
        if s.chance(0.3):
            p = s.node("Where", s.node("IsNaN", p), s.constant(np.float32(0)), p)
        y = s.node("MatMul", p, v)
    y = s.node("Reshape", s.node("Transpose", y, perm=[0, 2, 1, 3]), s.ints(0, -1, queries * size))
    s.step(s.node("MatMul", y, s.weight(queries * size, 16, low=-0.3, high=0.3)), (s.shape[0], 16))


def _positions(s: Net) -> str:
    """int64[N,S], the places of the tokens."""
    if "positions" not in [port.name for port in s.inputs]:
        s.inputs.append(helper.make_tensor_value_info("positions", TensorProto.INT64, ["N", "S"]))
    return "positions"


def _cached_rows(s: Net) -> None:
    """Attention of rows over caches, as graphopt writes it"""
    if s.opset < 23:
        return
    size, keys, groups = s.one(16, 32), s.one(1, 2), s.one(1, 2, 3)
    heads, index = keys * groups, len(s.inputs)
    q, k, v = (
        s.node("MatMul", s.last, s.weight(s.shape[1], count * size, low=-0.5, high=0.5))
        for count in (heads, keys, keys)
    )
    if s.chance(0.6):
        angles = s.rng.uniform(0, 6, (64, size // 2)).astype(np.float32)
        cos, sin = (s.node("Gather", s.constant(turn(angles)), _positions(s)) for turn in (np.cos, np.sin))
        between = s.one(0, 0, 1)
        q, k = (
            s.node("RotaryEmbedding", x, cos, sin, num_heads=count, interleaved=between)
            for x, count in ((q, heads), (k, keys))
        )
    pasts = f"pk{index}", f"pv{index}"
    for name in pasts:
        s.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", keys, "P", size]))
    mask, kind = "", s.one(TensorProto.FLOAT, TensorProto.BOOL)
    if s.chance(0.7):
        mask = f"mask{index}"
        s.inputs.append(helper.make_tensor_value_info(mask, kind, s.one(["S", "P + S"], ["N", 1, "S", "P + S"])))
    sizes = {"q_num_heads": heads, "kv_num_heads": keys, "scale": s.one(None, 0.3)}
    y, key, value = s.node("Attention", q, k, v, mask, *pasts, outputs=3, **sizes)
    s.give(key, rank=4)
    s.give(value, rank=4)
    s.step(s.node("MatMul", y, s.weight(heads * size, 16, low=-0.3, high=0.3)), (s.shape[0], 16))


def _recurrent(s: Net) -> None:
    depth, hidden = s.shape[1], 8
    op = s.one("LSTM", "GRU")
    gates, directions = (4 if op == "LSTM" else 3), s.one(1, 2)
    shapes = (
        (directions, gates * hidden, depth),
        (directions, gates * hidden, hidden),
        (directions, 2 * gates * hidden),
    )
    w, r, b = (s.weight(*shape, low=-0.5, high=0.5) for shape in shapes)
    x = s.node("Transpose", s.last, perm=[1, 0, 2])
    more = {} if op == "LSTM" else {"linear_before_reset": 1}
    way = "bidirectional" if directions == 2 else s.one("forward", "reverse")
    y = s.node(op, x, w, r, b, hidden_size=hidden, direction=way, **more)
    y = s.node("Transpose", y, perm=[2, 0, 1, 3])
    s.step(s.node("Reshape", y, s.ints(0, -1, directions * hidden)), (s.shape[0], directions * hidden))


def _conv1d(s: Net) -> None:
    depth, out = s.shape[1], s.one(8, 16)
    x = s.node("Transpose", s.last, perm=[0, 2, 1])
    y = s.node("Conv", x, s.weight(out, depth, 3, low=-0.3, high=0.3), s.weight(out), pads=[1, 1])
    s.step(s.node("Transpose", y, perm=[0, 2, 1]), (s.shape[0], out))


def _shared_products(s: Net) -> None:
    """A product of two activations, and a sum over the mean of all tokens"""
    gram = s.node("MatMul", s.last, s.node("Transpose", s.last, perm=[0, 2, 1]))
    weights = s.node("Softmax", s.node("Mul", gram, s.constant(np.float32(0.2))), axis=-1)
    s.step(s.node("Add", s.last, s.node("MatMul", weights, s.last)))


LAYERS: tuple[Callable[[Net], None], ...] = (
    _linear, _linear, _linear, _token_norm, _token_norm, activation, activation, binary, pair, _gated, _attention,
    _cached_rows, _cached_rows, _recurrent, _conv1d, _shared_products,
)  # fmt: skip
