"""Fake quantization, straight through: rounding counts as the identity inside the range of the codes.

The cotangent of codes q is dL/dq as a float tensor, though q are integers.
"""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import DType
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


def _shaped(call: Call, vector: Tensor) -> Tensor:
    """A scale or zero point as a factor of x: of the tensor, of each index along an axis, or of each block of these."""
    if call.attr("block_size", 0):
        return call.writer.node("Gather", vector, _blocks(call), axis=call.axis(default=1))
    if not vector.dims or vector.dims == (1,):
        return vector.reshape([]) if vector.dims else vector
    after = call.x.rank - 1 - call.axis(default=1)
    return vector.unsqueeze(list(range(1, after + 1))) if after else vector


def _blocks(call: Call) -> Tensor:
    """The block of each index along the axis, i64."""
    floats = call.y if call.y.dtype.is_float else call.x  # onnxruntime has no Shape of 4-bit integers
    size, block, w = floats.size(call.axis(default=1)), int(call.attr("block_size")), call.writer
    if isinstance(size, int):
        return w.constant(np.arange(size) // block)
    zero, one = w.constant(np.int64(0)), w.constant(np.int64(1))
    return w.node("Range", zero, size.reshape([]), one) / block


def _sum(call: Call, g: Tensor) -> Tensor:
    """Σ g to the shape of the scale."""
    scale, block = call.input(1), call.attr("block_size", 0)
    if not block:
        return g.reduced_to(_shaped(call, scale)).reshape(scale.shape)
    axis, sizes = call.axis(default=1), scale.sizes()
    missing = sizes[axis] * block - g.size(axis)
    pads = [*[0] * (g.rank + axis), missing, *[0] * (g.rank - 1 - axis)]
    return g.pad(pads).reshape([*sizes[: axis + 1], block, *sizes[axis + 1 :]]).sum([axis + 1])


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
