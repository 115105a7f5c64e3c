"""Elementwise arithmetic of quantized tensors, in the float32 operations of DequantizeLinear → op → QuantizeLinear.

Nothing is contracted: each multiplication, addition and division rounds as the separate operators would. Zero points
are added and taken off in float32, which is exact for codes: integers would become 64 bits wide and halve the vectors.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import add as _add
from graphopt.kernels.loops.core.arithmetic import encode, limited
from graphopt.kernels.loops.core.arithmetic import multiply as _multiply
from graphopt.kernels.loops.core.arithmetic import subtract as _subtract

TILE = 4096  # elements of a tile of flat kernels


def quantize(lo, hi, worker, x, y, count, scale, zero_point, least, greatest):
    """QuantizeLinear, float32 to 8 bits."""
    zero = np.float32(zero_point)
    low, high = np.float32(least - zero_point), np.float32(greatest - zero_point)
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = encode(x[i], scale, zero, low, high)


def dequantize(lo, hi, worker, x, y, count, scale, zero_point):
    """DequantizeLinear, 8 bits to float32, one scale."""
    zero = np.float32(zero_point)
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = np.float32(np.float32(np.int32(x[i])) - zero) * scale


def _binary(combine, divide):
    """`divide` False: the scales of a and b are factors that y's scale has gone into (`proved_factors`)."""

    def kernel(
        lo, hi, worker, a, b, y, count, row_elements, rows, b_outer, b_row, b_inner,
        a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, least, greatest,
    ):  # fmt: skip
        za, zb, zy = np.float32(a_zero), np.float32(b_zero), np.float32(y_zero)
        low, high = np.float32(least - y_zero), np.float32(greatest - y_zero)
        for row in range(lo, hi):
            first = row * row_elements
            size = min(row_elements, count - first)
            outer = row // rows
            other = outer * b_outer + (row - outer * rows) * b_row
            if b_inner == 0:
                q = (np.float32(np.int32(b[other])) - zb) * b_scale
                for i in range(size):
                    p = (np.float32(np.int32(a[first + i])) - za) * a_scale
                    v = combine(p, q)
                    y[first + i] = encode(v, y_scale, zy, low, high) if divide else limited(v, zy, low, high)
            else:
                for i in range(size):
                    p = (np.float32(np.int32(a[first + i])) - za) * a_scale
                    q = (np.float32(np.int32(b[other + i])) - zb) * b_scale
                    v = combine(p, q)
                    y[first + i] = encode(v, y_scale, zy, low, high) if divide else limited(v, zy, low, high)

    return kernel


add, add_scaled = _binary(_add, True), _binary(_add, False)
subtract, subtract_scaled = _binary(_subtract, True), _binary(_subtract, False)
multiply, multiply_scaled = _binary(_multiply, True), _binary(_multiply, False)
