"""Fake quantization, straight through: rounding counts as the identity inside the range of the codes.

The cotangent of codes q is dL/dq as a float tensor, though q are integers.
"""

from __future__ import annotations

from ...errors import Declined
from ...ir import DType
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


def _shaped(call: Call, vector: Tensor) -> Tensor:
    """A scale or zero point as a factor of x: of the whole tensor, or of each index along an axis."""
    if call.attr("block_size", 0):
        raise Declined("quantization by blocks")
    if not vector.dims or vector.dims == (1,):
        return vector.reshape([]) if vector.dims else vector
    after = call.x.rank - 1 - call.axis(default=1)
    return vector.unsqueeze(list(range(1, after + 1))) if after else vector


def _sum(call: Call, g: Tensor) -> Tensor:
    """Σ g to the shape of the scale."""
    scale = call.input(1)
    return g.reduced_to(_shaped(call, scale)).reshape(scale.shape)


def dequantize(call: Call) -> Gradients:
    """y = s (q − z): dq = g s, ds = Σ g (q − z)"""
    scale, zero = call.input(1), call.optional(2)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = call.g * _shaped(call, scale)
    if 1 in call.wanted:
        codes = call.x.cast(scale.dtype)
        shifted = codes if zero is None else codes - _shaped(call, zero.cast(scale.dtype))
        found[1] = _sum(call, call.g * shifted)
    return found


def quantize(call: Call) -> Gradients:
    """q = clip(round(x / s) + z, low, high): dx = dq / s and ds = −Σ dq x / s² where low ≤ x / s + z ≤ high, else 0
    (straight-through; with the gradient of DequantizeLinear ds is that of LSQ, Esser et al. 2020)"""
    x, scale, zero = call.x, call.input(1), call.optional(2)
    low, high = _range(call.y.dtype)
    factor = _shaped(call, scale).cast(x.dtype)
    ratio = x / factor
    place = ratio.Round() if zero is None else ratio.Round() + _shaped(call, zero.cast(x.dtype))
    outside = call.writer.node("Or", place.less(low), place.greater(high))
    inside = outside.where(0.0, call.g.cast(x.dtype) / factor)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = inside
    if 1 in call.wanted:
        found[1] = _sum(call, -(inside * ratio)).cast(scale.dtype)
    return found


def _range(dtype: DType) -> tuple[int, int]:
    if not dtype.is_integer:
        raise Declined(f"quantization to {dtype.short}")
    if dtype.name.startswith("U"):
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


RULES: dict[str, Rule] = {"QuantizeLinear": quantize, "DequantizeLinear": dequantize}
