"""Reductions of float32 rows: independent lanes that vectorize, then halves folded onto each other."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

LANES = 64  # independent sums: four vectors of the widest level, which hides the latency of an addition


@register_jitable
def total(values, count, lanes):
    """Σ values[i]: 64 partial sums in scratch `lanes`, added pairwise."""
    for k in range(LANES):
        lanes[k] = np.float32(0)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        for k in range(LANES):
            lanes[k] += values[i + k]
    for i in range(whole, count):
        lanes[i - whole] += values[i]
    return folded(lanes)


@register_jitable
def folded(lanes):
    """Σ lanes."""
    for k in range(32):
        lanes[k] += lanes[k + 32]
    for k in range(16):
        lanes[k] += lanes[k + 16]
    for k in range(8):
        lanes[k] += lanes[k + 8]
    for k in range(4):
        lanes[k] += lanes[k + 4]
    return np.float32(np.float32(lanes[0] + lanes[2]) + np.float32(lanes[1] + lanes[3]))


@register_jitable
def greatest(values, count, lanes):
    """The maximum of the values that are not NaN, −inf for none."""
    for k in range(LANES):
        lanes[k] = np.float32(-np.inf)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        for k in range(LANES):
            v = values[i + k]
            lanes[k] = v if v > lanes[k] else lanes[k]
    for i in range(whole, count):
        v = values[i]
        lanes[i - whole] = v if v > lanes[i - whole] else lanes[i - whole]
    for k in range(32):
        lanes[k] = lanes[k + 32] if lanes[k + 32] > lanes[k] else lanes[k]
    for k in range(16):
        lanes[k] = lanes[k + 16] if lanes[k + 16] > lanes[k] else lanes[k]
    top = lanes[0]
    for k in range(1, 16):
        top = lanes[k] if lanes[k] > top else top
    return top
