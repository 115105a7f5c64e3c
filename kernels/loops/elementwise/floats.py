"""float32 arithmetic of one or two tensors, each operation rounded as in the ONNX operator."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.loops.core.arithmetic import add as _add
from graphopt.kernels.loops.core.arithmetic import multiply as _multiply
from graphopt.kernels.loops.core.arithmetic import subtract as _subtract
from graphopt.kernels.loops.core.exponential import erf

TILE = 4096  # elements of a tile of flat kernels


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


@register_jitable
def _prelu(p, q):
    return p if p > np.float32(0) else np.float32(p * q)


def _binary(combine):
    def kernel(lo, hi, worker, a, b, y, count, rows):
        """y = a ∘ b; a tile is a row of a, with b's row by strides: a single element of b where rows.inner is 0."""
        for row in range(lo, hi):
            first = row * rows.row_elements
            size = min(rows.row_elements, count - first)
            outer = row // rows.rows
            other = outer * rows.outer + (row - outer * rows.rows) * rows.row
            if rows.inner == 0:
                q = b[other]
                for i in range(size):
                    y[first + i] = combine(a[first + i], q)
            else:
                for i in range(size):
                    y[first + i] = combine(a[first + i], b[other + i])

    return kernel


add, subtract, multiply, divide = _binary(_add), _binary(_subtract), _binary(_multiply), _binary(_divide)
subtract_from, divide_into, prelu = _binary(_subtract_from), _binary(_divide_into), _binary(_prelu)
