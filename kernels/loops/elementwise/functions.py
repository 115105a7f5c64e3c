"""Functions of one float32 element; every loop vectorizes: no tables, no branches."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.loops.core.exponential import erf as _erf
from graphopt.kernels.loops.core.exponential import exp as _exp
from graphopt.kernels.loops.core.exponential import multiply_add

TILE = 4096  # elements of a tile of flat kernels
GREATEST_FLOAT = np.float32(3.4028234663852886e38)  # (2 − 2⁻²³) · 2¹²⁷, of IEEE 754


@register_jitable
def _sigmoid(x, a, b):
    return np.float32(np.float32(1) / np.float32(np.float32(1) + _exp(np.float32(-a * x))))


@register_jitable
def _gated(x, a, b):
    square = np.float32(x * x)
    square = square if square < GREATEST_FLOAT else GREATEST_FLOAT  # not infinite, of which b = 0 makes NaN
    inner = np.float32(x * multiply_add(square, b, a))
    y = np.float32(x / np.float32(np.float32(1) + _exp(-inner)))
    return y if inner > np.float32(-88) else np.float32(x * np.float32(0))


@register_jitable
def _tanh(x, a, b):
    """Cephes: a polynomial in x² below 5/8, where 1 − exp(−2 |x|) cancels."""
    size = np.abs(x)
    e = _exp(np.float32(np.float32(-2) * size))
    far = np.float32(np.float32(np.float32(1) - e) / np.float32(np.float32(1) + e))
    far = far if x > np.float32(0) else -far
    z = np.float32(x * x)
    p = multiply_add(np.float32(-5.70498872745e-3), z, np.float32(2.06390887954e-2))
    p = multiply_add(p, z, np.float32(-5.37397155531e-2))
    p = multiply_add(p, z, np.float32(1.33314422036e-1))
    p = multiply_add(p, z, np.float32(-3.33332819422e-1))
    near = multiply_add(np.float32(p * z), x, x)
    return near if size < np.float32(0.625) else far


@register_jitable
def _exp_of(x, a, b):
    """Beyond 88, where exp ends, it is the square of exp(x / 2), up to the largest float and infinity."""
    is_far = x > np.float32(88)
    y = _exp(np.float32(x * np.float32(0.5)) if is_far else x)
    y = np.float32(y * y) if is_far else y
    return y if x > np.float32(-87) or x != x else np.float32(0)


@register_jitable
def _erf_of(x, a, b):
    return _erf(x)


@register_jitable
def _sqrt(x, a, b):
    return np.sqrt(x)


@register_jitable
def _reciprocal(x, a, b):
    return np.float32(np.float32(1) / x)


@register_jitable
def _negative(x, a, b):
    return -x


@register_jitable
def _absolute(x, a, b):
    return np.abs(x)


@register_jitable
def _leaky(x, a, b):
    return np.float32(a * x) if x < np.float32(0) else x


@register_jitable
def _elu(x, a, b):
    return np.float32(a * np.float32(_exp(x) - np.float32(1))) if x < np.float32(0) else x


@register_jitable
def _hard_swish(x, a, b):
    v = np.float32(np.float32(a * x) + b)
    v = v if v > np.float32(0) else np.float32(0)
    return np.float32(x * (v if v < np.float32(1) else np.float32(1)))


@register_jitable
def _number(x, a, b):
    return x if x == x else a


def _each(function):
    def kernel(lo, hi, worker, x, y, count, a, b):
        """y = function(x; a, b)."""
        for i in range(lo * TILE, min(hi * TILE, count)):
            y[i] = function(x[i], a, b)

    return kernel


sigmoid, gated, tanh, exp, erf = _each(_sigmoid), _each(_gated), _each(_tanh), _each(_exp_of), _each(_erf_of)
sqrt, reciprocal, negative, absolute = _each(_sqrt), _each(_reciprocal), _each(_negative), _each(_absolute)
leaky, elu, hard_swish, number = _each(_leaky), _each(_elu), _each(_hard_swish), _each(_number)
