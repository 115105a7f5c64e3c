"""Attributes and secondary operands of operators that do not accept arbitrary constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import DType, Value
from ..sketch import Sketch
from .layout import reshape_operand, target_sizes

RANKS: dict[str, tuple[int, ...]] = {
    "Conv": (4, 3), "ConvTranspose": (4,), "MaxPool": (4,), "AveragePool": (4,), "GlobalAveragePool": (4,),
    "InstanceNormalization": (3, 4), "BatchNormalization": (4, 2, 3), "Gemm": (2,), "MatMul": (2, 3),
    "LayerNormalization": (2, 3), "RMSNormalization": (2, 3), "DepthToSpace": (4,), "SpaceToDepth": (4,),
}  # fmt: skip
"""Ranks that an operator accepts."""

SINGLE = frozenset((
    "Erf", "Mish", "HardSwish", "Softsign", "Softplus", "Celu", "ThresholdedRelu", "Selu", "LeakyRelu", "HardSigmoid",
    "Elu", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "InstanceNormalization", "PRelu", "Gelu",
    "DynamicQuantizeLinear", "com.microsoft::DynamicQuantizeMatMul",
    "com.microsoft::Gelu", "com.microsoft::FastGelu", "com.microsoft::QuickGelu",
))  # fmt: skip
"""Operators that onnxruntime implements in single precision only."""

PRODUCTS_OF_CODES = {
    "com.microsoft::MatMulIntegerToFloat": frozenset((2, 3, 4, 5)),
    "com.microsoft::DynamicQuantizeMatMul": frozenset((2,)),
}  # fmt: skip
"""Operand slots that onnxruntime's integer products require or usually have, though a pattern may omit them."""

ON_CODES = frozenset(("MatMulInteger", "com.microsoft::MatMulIntegerToFloat"))
"""Operators whose data are quantized codes."""

Attrs = dict[str, Any]
Slots = Sequence[Value | None]


def default_attrs(s: Sketch, op: str, x: Value) -> Attrs:
    """Attributes that the operator requires, or whose defaults exercise little of it."""
    make = _ATTRS.get(op) or (_reduction if op.startswith("Reduce") else None)
    return {} if make is None else make(s, x)


def operand_for(s: Sketch, op: str, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    """The operand at `slot` of an operator on `x`; None where any value that broadcasts with `x` fits."""
    make = _OPERANDS.get(op)
    return None if make is None else make(s, slot, x, slots, attrs)


# -- attributes


def _perm(s: Sketch, x: Value) -> Attrs:
    node = x.producer
    known = node.attrs.get("perm") if node is not None and node.op == "Transpose" else None
    if known is not None and s.chance(0.5):
        return {"perm": tuple(int(i) for i in np.argsort(known))}
    perm = list(range(s.rank(x)))
    s.rng.shuffle(perm)
    return {"perm": tuple(perm)}


def _reduction(s: Sketch, x: Value) -> Attrs:
    return {"keepdims": int(s.chance(0.8))} if s.rank(x) else {}


def _conv_attrs(s: Sketch, x: Value) -> Attrs:
    if s.rank(x) < 3:
        raise Declined("no image")
    dims, group = s.rank(x) - 2, s.choose((1, s.size(x, 1)))
    attrs: Attrs = {"kernel_shape": (s.choose((1, 3)),) * dims, "group": group}
    if attrs["kernel_shape"][0] == 3 and s.chance(0.6):
        attrs["pads"] = (1,) * (2 * dims)
    if any(isinstance(d, int) and d < 3 for d in s.shape(x)[2:]):
        raise Declined("too small for a window")
    return attrs


def _pool_attrs(s: Sketch, x: Value) -> Attrs:
    _conv_attrs(s, x)
    return {"kernel_shape": (2,) * (s.rank(x) - 2), "strides": (s.choose((1, 2)),) * (s.rank(x) - 2)}


def _known_axis(s: Sketch, x: Value) -> Attrs:
    return {"axis": s.choose([i for i, d in enumerate(s.shape(x)) if isinstance(d, int)])}


_ATTRS: dict[str, Callable[[Sketch, Value], Attrs]] = {
    "Transpose": _perm, "Conv": _conv_attrs, "ConvTranspose": _conv_attrs, "MaxPool": _pool_attrs,
    "AveragePool": _pool_attrs, "Concat": _known_axis, "Gather": _known_axis, "Split": _known_axis,
    "Flatten": lambda s, x: {"axis": s.integer(0, s.rank(x))},
    "Softmax": lambda s, x: {"axis": s.choose((-1, s.rank(x) - 1))}, "LogSoftmax": lambda s, x: {"axis": -1},
    "LayerNormalization": lambda s, x: {"axis": -1}, "RMSNormalization": lambda s, x: {"axis": -1},
    "Cast": lambda s, x: {"to": int(s.choose((DType.DOUBLE, DType.FLOAT, s.dtype(x))))},
    "Gemm": lambda s, x: {"transB": s.choose((0, 1)), "alpha": s.choose((1.0, 0.5)), "beta": s.choose((1.0, 0.5))},
    "HardSigmoid": lambda s, x: {"alpha": s.choose((1 / 6, 0.2)), "beta": 0.5},
    "BatchNormalization": lambda s, x: {"epsilon": s.choose((None, 1e-2, 0.1))},
    "Gelu": lambda s, x: {"approximate": s.choose(("none", "tanh"))},
    "DepthToSpace": lambda s, x: {"blocksize": s.choose((1, 2))},
    "SpaceToDepth": lambda s, x: {"blocksize": s.choose((1, 2))},
}  # fmt: skip


# -- operands


def _conv(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    channels, group = s.size(x, 1), attrs["group"]
    if group < 1 or channels % group:
        raise Declined("the channels do not fall into groups")
    if slot == 1:
        return s.weight((group * s.choose((1, 2)), channels // group, *attrs["kernel_shape"]), s.dtype(x), -0.5, 0.5)
    return s.weight((s.size(_given(slots, 1), 0),), s.dtype(x))


def _conv_transpose(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    channels, group = s.size(x, 1), attrs["group"]
    if slot == 1:
        return s.weight((channels, s.choose((1, 2)), *attrs["kernel_shape"]), s.dtype(x), -0.5, 0.5)
    return s.weight((s.size(_given(slots, 1), 1) * group,), s.dtype(x))


def _matmul(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if slot != 1:
        raise Declined("a product from the left")
    return s.weight((s.size(x, -1), s.choose((4, 2))), s.dtype(x))


def _gemm(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if slot == 1:
        sizes = (s.size(x, 1), s.choose((4, 2)))
        return s.weight(sizes[::-1] if attrs["transB"] else sizes, s.dtype(x))
    width = s.size(_given(slots, 1), 0 if attrs["transB"] else 1)
    return s.weight(s.choose(((width,), (1, width), (1,), ())), s.dtype(x))


def _statistics(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.weight((s.size(x, 1),), s.dtype(x), 0.3 if slot == 4 else -1.0, 1.5)


def _instance_parameters(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if all(d == 1 for d in s.shape(x)[2:]):
        raise Declined("nothing to normalise over")
    return _statistics(s, slot, x, slots, attrs)


def _last(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if s.size(x, -1) < 2:
        raise Declined("nothing to normalise over")
    return s.weight((s.size(x, -1),), s.dtype(x))


def _reshape(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.ints(*reshape_operand(s, s.shape(x), target_sizes(s, s.shape(x))))


def _expand(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.ints(*(1 for _ in s.shape(x))) if s.chance(0.5) else s.ints(2, *(1 for _ in s.shape(x)))


def _squeeze(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return _axes(s, (s.choose([i for i, d in enumerate(s.shape(x)) if d == 1]),), attrs)


def _unsqueeze(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return _axes(s, s.choose(((0,), (s.rank(x),), (0, s.rank(x) + 1))), attrs)


def _axes(s: Sketch, axes: tuple[int, ...], attrs: Attrs) -> Value | None:
    """Axes as an operand; before opset 13 they are an attribute."""
    if s.opset >= 13:
        return s.ints(*axes)
    attrs["axes"] = axes
    return None


def _slice(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    axis = s.choose([i for i, d in enumerate(s.shape(x)) if isinstance(d, int) and d > 1])
    if slot == 3:
        return s.ints(axis)
    return s.ints({1: s.choose((0, 1)), 2: s.choose(((1 << 63) - 1, 2)), 4: 1}[slot])


def _pad(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if slot == 2:
        return s.constant(s.choose((0.0, 1.0)), s.dtype(x))
    amounts = [0] * (2 * s.rank(x))
    for axis in range(2, s.rank(x)):
        amounts[axis] = amounts[axis + s.rank(x)] = s.choose((1, 0))
    return s.ints(*amounts)


def _clip(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.constant(s.choose((0.0, -1.0) if slot == 1 else (6.0, 1.0)), s.dtype(x))


def _gather(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    last = s.size(x, attrs["axis"]) - 1
    return s.constant(
        s.choose((np.array(0), np.array([0, last]), np.arange(last + 1), np.array([-1]))).astype(np.int64)
    )


def _split(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    size = s.size(x, attrs["axis"])
    if size % 2:
        raise Declined("no halves")
    return s.ints(size // 2, size // 2)


def _tile(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.ints(*(s.choose((1, 2)) for _ in s.shape(x)))


def _concat(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.choose([v for v in s.pool if v.type == x.type])


def _condition(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.constant(np.array(s.chance(0.5))) if slot == 0 else None


def _quantization(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if not s.facts[x].steady:
        raise Declined("a rounding could move a step")
    return s.constant(np.float32(0.0625)) if slot == 1 else s.constant(np.uint8(s.choose((0, 7))))


def _exponent(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return s.constant(s.choose((2.0, 1.0, 3.0)), s.dtype(x))


def _given(slots: Slots, slot: int) -> Value:
    value = slots[slot]
    if value is None:
        raise Declined("an operand is missing")
    return value


def codes(s: Sketch) -> Value:
    """A matrix of quantized codes u8[N,D]."""
    x = s.pick(DType.FLOAT, ranks=(2,), steady=True)
    return s.node("QuantizeLinear", x, s.constant(np.float32(0.0625)), s.constant(np.uint8(3)), bound=255.0)


def _integer_product(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if slot == 1:
        return s.constant(s.arrays.integers(-127, 128, (s.size(x, -1), 4)).astype(np.int8))
    return s.constant(np.uint8(3)) if slot == 2 else s.constant(np.int8(0))


def _scaled_integer_product(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    if slot in (2, 3):
        return s.constant(np.float32(s.choose((0.01, 0.02))))
    return _integer_product(s, min(slot, 2) if slot != 5 else 3, x, slots, attrs)


def _dynamic_product(s: Sketch, slot: int, x: Value, slots: Slots, attrs: Attrs) -> Value | None:
    return _scaled_integer_product(s, {1: 1, 2: 3}[slot], x, slots, attrs)


_OPERANDS: dict[str, Callable[[Sketch, int, Value, Slots, Attrs], Value | None]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm,
    "BatchNormalization": _statistics, "InstanceNormalization": _instance_parameters, "LayerNormalization": _last,
    "RMSNormalization": _last, "Reshape": _reshape, "Expand": _expand, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Slice": _slice, "Pad": _pad, "Clip": _clip, "Gather": _gather, "Split": _split, "Tile": _tile, "Concat": _concat,
    "Where": _condition, "QuantizeLinear": _quantization, "DequantizeLinear": _quantization,
    "com.microsoft::QuantizeLinear": _quantization, "Pow": _exponent, "MatMulInteger": _integer_product,
    "com.microsoft::MatMulIntegerToFloat": _scaled_integer_product,
    "com.microsoft::DynamicQuantizeMatMul": _dynamic_product,
}  # fmt: skip
