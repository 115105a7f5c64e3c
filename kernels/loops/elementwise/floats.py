"""The float32 between quantized parts: arithmetic of two tensors, each operation rounded as the operator would."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.loops.core.arithmetic import add as _add
from graphopt.kernels.loops.core.arithmetic import multiply as _multiply
from graphopt.kernels.loops.core.arithmetic import subtract as _subtract
from graphopt.kernels.loops.core.exponential import erf

TILE = 4096  # elements of a tile of flat kernels


def map_floats(lo, hi, worker, x, y, count, table):
    """y = table[x], codes to float32."""
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = table[x[i]]


def clamp(lo, hi, worker, x, y, count, slope, shift, low, high):
    """y = min(max(slope · x + shift, low), high); NaN stays."""
    for i in range(lo * TILE, min(hi * TILE, count)):
        v = np.float32(np.float32(slope * x[i]) + shift)
        v = low if v < low else v
        y[i] = high if v > high else v


def gelu(lo, hi, worker, x, y, count, inner, plain, bent):
    """y = x · (plain + bent · erf(inner · x))."""
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = np.float32(x[i] * np.float32(plain + np.float32(bent * erf(np.float32(inner * x[i])))))


@register_jitable
def _divide(p, q):
    return p / q


@register_jitable
def _subtract_from(p, q):
    return q - p


@register_jitable
def _divide_into(p, q):
    return q / p


def _binary(combine):
    def kernel(lo, hi, worker, a, b, y, count, row_elements, rows, b_outer, b_row, b_inner):
        """y = a ∘ b; rows of `row_elements`, b's row found by strides, one element of it where b_inner is 0."""
        for row in range(lo, hi):
            first = row * row_elements
            size = min(row_elements, count - first)
            outer = row // rows
            other = outer * b_outer + (row - outer * rows) * b_row
            if b_inner == 0:
                q = b[other]
                for i in range(size):
                    y[first + i] = combine(a[first + i], q)
            else:
                for i in range(size):
                    y[first + i] = combine(a[first + i], b[other + i])

    return kernel


add, subtract, multiply, divide = _binary(_add), _binary(_subtract), _binary(_multiply), _binary(_divide)
subtract_from, divide_into = _binary(_subtract_from), _binary(_divide_into)
