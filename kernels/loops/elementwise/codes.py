"""Elementwise arithmetic of quantized tensors, in the float32 operations of DequantizeLinear → op → QuantizeLinear.

No operations are contracted: each multiplication, addition and division rounds as the separate operators would. Zero
points are added and subtracted in float32, which is exact for codes: integers would be widened to 64 bits and halve the
vectors.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import add as _add
from graphopt.kernels.loops.core.arithmetic import code_limits, encode, limited
from graphopt.kernels.loops.core.arithmetic import multiply as _multiply
from graphopt.kernels.loops.core.arithmetic import subtract as _subtract

TILE = 4096  # elements of a tile of flat kernels


def quantize(lo, hi, worker, x, y, count, qy):
    """QuantizeLinear, float32 to 8 bits."""
    zero, low, high = code_limits(qy)
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = encode(x[i], qy.scale, zero, low, high)


def dequantize(lo, hi, worker, x, y, count, qx):
    """DequantizeLinear, 8 bits to float32."""
    zero = np.float32(qx.zero)
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = np.float32(np.float32(np.int32(x[i])) - zero) * qx.scale


def _binary(combine, divide):
    """`divide` False: qa.scale and qb.scale are factors that include the division by y's scale (`proved_factors`)."""

    def kernel(lo, hi, worker, a, b, y, count, rows, qa, qb, qy):
        za, zb = np.float32(qa.zero), np.float32(qb.zero)
        zero, low, high = code_limits(qy)
        for row in range(lo, hi):
            first = row * rows.row_elements
            size = min(rows.row_elements, count - first)
            outer = row // rows.rows
            other = outer * rows.outer + (row - outer * rows.rows) * rows.row
            if rows.inner == 0:
                q = (np.float32(np.int32(b[other])) - zb) * qb.scale
                for i in range(size):
                    p = (np.float32(np.int32(a[first + i])) - za) * qa.scale
                    v = combine(p, q)
                    y[first + i] = encode(v, qy.scale, zero, low, high) if divide else limited(v, zero, low, high)
            else:
                for i in range(size):
                    p = (np.float32(np.int32(a[first + i])) - za) * qa.scale
                    q = (np.float32(np.int32(b[other + i])) - zb) * qb.scale
                    v = combine(p, q)
                    y[first + i] = encode(v, qy.scale, zero, low, high) if divide else limited(v, zero, low, high)

    return kernel


add, add_scaled = _binary(_add, True), _binary(_add, False)
subtract, subtract_scaled = _binary(_subtract, True), _binary(_subtract, False)
multiply, multiply_scaled = _binary(_multiply, True), _binary(_multiply, False)
