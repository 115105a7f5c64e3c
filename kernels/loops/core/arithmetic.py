"""Arithmetic of single elements: two float32 combined, a float32 turned into a code."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable


@register_jitable
def add(p, q):
    """p + q."""
    return p + q


@register_jitable
def subtract(p, q):
    """p − q."""
    return p - q


@register_jitable
def multiply(p, q):
    """p · q."""
    return p * q


@register_jitable
def encode(value, scale, zero, low, high):
    """saturate(round_half_even(value / scale) + zero) as int32; NaN gives zero. The clamp precedes rounding."""
    v = np.float32(value / scale)
    v = v if v == v else np.float32(0)
    return limited(v, zero, low, high)


@register_jitable
def limited(v, zero, low, high):
    """saturate(round_half_even(v) + zero) as int32, for numbers; `low` and `high` are without the zero point."""
    v = v if v > low else low
    v = v if v < high else high
    return np.int32(np.rint(v) + zero)


@register_jitable
def code_limits(q):
    """Zero point of a `CodeRecord`, and its least and greatest code less the zero point, all float32."""
    return np.float32(q.zero), np.float32(q.least - q.zero), np.float32(q.greatest - q.zero)
