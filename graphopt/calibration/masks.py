"""Elements of a tensor that are no numbers to code: NaN, infinite ones, and the huge negative ones that masks write."""

from __future__ import annotations

import numpy as np

from ..ir import Array

HUGE = 1e30
"""The magnitude from which an element is a mask's, not an activation's: exporters write the least number of float32,
−3.4e38, and sums of it; a product of activations that large would overflow at the next one."""
HUGE_HALF = 3e4
"""The same for negative elements of float16, whose least number is −65504; exporters write that or −3e4."""


def numbers(array: Array) -> Array | None:
    """Which elements of a float array are numbers to code, as a boolean array; None where all are."""
    if array.dtype.kind != "f" or not array.size:
        return None
    low, high = (-HUGE_HALF, np.inf) if array.dtype == np.float16 else (-HUGE, HUGE)
    if low < array.min() and array.max() < high:  # NaN is neither
        return None
    kept: Array = (array > low) & (array < high)
    return kept
