"""Constants of one number a channel, and the guards under which Add, Sub, Mul and Div apply them channel by channel."""

from __future__ import annotations

import numpy as np

from ...analysis.operands import MOVES, moved
from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value

FLOATS = (DType.FLOAT, DType.DOUBLE, DType.FLOAT16)
WIDE_FLOATS = (DType.FLOAT, DType.DOUBLE)
"""Types whose constants are combined in double precision."""
MASKED_WITHIN = 6
"""The most nodes examined between a mask and the factor: those that create, move and insert the mask."""
_MASKING = {"Where": (1, 2), "Pad": (0, 2), "Add": (0, 1), "Sub": (0, 1)}
"""Operators that insert constants into a tensor, and the operands whose elements their results contain."""


def floating(x: Value) -> TensorType:
    """The type of `x`, a tensor in double, single or half precision whose rank is known; Declined otherwise."""
    if not isinstance(x.type, TensorType) or x.type.dtype not in FLOATS or x.type.shape is None:
        raise Declined("not a floating-point tensor of known rank")
    return x.type


def elementwise(x: Value, result: Node) -> TensorType:
    """The type of `x`, where constants broadcast on the way to `result` neither add nor widen an axis of it."""
    type, made = floating(x), result.output.type
    if not isinstance(made, TensorType) or made.rank != type.rank:
        raise Declined("a constant adds an axis")
    return type


def spread(c: Array, rank: int, axis: int, channels: int) -> Array:
    """A constant that varies along `axis` alone, as float64[channels]; Declined for any other."""
    if axis >= rank:
        raise Declined("there is no axis of channels")
    if c.ndim > rank:
        raise Declined("the constant adds an axis")
    sizes = [1] * (rank - c.ndim) + list(c.shape)
    if any(size != 1 for i, size in enumerate(sizes) if i != axis) or sizes[axis] not in (1, channels):
        raise Declined("the constant is not one number a channel")
    return np.broadcast_to(c.astype(np.float64).reshape(-1), (channels,))


def channel_bias(b: Array | None, channels: int) -> Array:
    """A bias as float64[channels], zeros for None; Declined for other shapes."""
    if b is None:
        return np.zeros(channels)
    _check_finite(b)
    if b.size == 1:
        return np.full(channels, float(b.reshape(())))
    if b.size != channels or b.shape[-1] != channels:
        raise Declined("the bias is not one number a channel")
    return b.reshape(-1).astype(np.float64)


def shift_of(node: Node, c: Array) -> Array:
    """The summand of an Add or Sub of the constant c: c or -c, in double precision; Declined if it is not finite."""
    _check_finite(c)
    return -c.astype(np.float64) if node.op == "Sub" else c.astype(np.float64)


def factor_of(node: Node, c: Array) -> Array:
    """The factor of a Mul or Div by the constant c: c or 1 / c, in double precision; Declined if it is not finite, or
    takes mask values beyond the range of their type: these become infinite only if the factor stays in place."""
    _check_finite(c)
    c = c.astype(np.float64)
    if node.op == "Div" and not c.all():
        raise Declined("division by zero")
    factor: Array = c if node.op == "Mul" else 1 / c
    most = float(np.abs(factor).max(initial=0))
    if most > 1 and any(v is not None and v.constant is None and _overflows(v, most) for v in node.inputs):
        raise Declined("the factor takes masked numbers to infinity")
    return factor


def _overflows(x: Value, factor: float, steps: int = MASKED_WITHIN) -> bool:
    """Whether a constant inserted into x, at most `steps` nodes before it, overflows when multiplied by `factor`."""
    if x.constant is not None:
        array = x.constant.array()
        largest = float(np.abs(array).max(initial=0)) if array.dtype.kind == "f" else 0.0
        return bool(largest) and largest * factor > float(np.finfo(array.dtype).max)
    node = x.producer
    if node is None or not steps:
        return False
    if node.op in MOVES:
        read = moved(node)
    else:
        read = tuple(node.input(slot) for slot in _MASKING.get(node.op, ()))
    return any(v is not None and _overflows(v, factor, steps - 1) for v in read)


def _check_finite(c: Array) -> None:
    """Declined for infinities and NaN: after moving, they could be multiplied with zeros."""
    if not np.isfinite(c).all():
        raise Declined("a constant is not finite")


def constant_second(node: Node, first: Value) -> None:
    """Declined for c - x and c / x."""
    if node.op in ("Sub", "Div") and node.inputs[0] is not first:
        raise Declined("the constant comes first")
