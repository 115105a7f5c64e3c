"""Elements of a tensor excluded from quantization ranges: NaN, infinities, and the huge magnitudes of masks."""

from __future__ import annotations

import numpy as np

from ..ir import Array

HUGE = 1e30
"""The magnitude from which an element is a mask's, not an activation's: exporters write the least number of float32,
−3.4e38, and sums of it; a product of activations that large would overflow at the next one."""
HUGE_HALF = 3e4
"""The same for negative elements of float16, whose least number is −65504; exporters write that or −3e4."""
_INFINITE, _MASK = (int(np.array(number, np.float16).view(np.uint16)) for number in (np.inf, -HUGE_HALF))
"""Least bit patterns of excluded float16 elements, positive and negative: per sign, bits grow with magnitude."""


def numbers(array: Array) -> Array | None:
    """The elements of a float array to quantize, as a boolean array; None where all are."""
    if array.dtype.kind != "f" or not array.size:
        return None
    low, high = (-HUGE_HALF, np.inf) if array.dtype == np.float16 else (-HUGE, HUGE)
    if array.dtype == np.float16:  # numpy compares bit patterns many times as fast as float16
        bits = array.view(np.int16)
        all_kept = bits.max() < _INFINITE and bits.view(np.uint16).max() < _MASK
        return None if all_kept else np.asarray((array > low) & (array < high))
    if low < array.min() and array.max() < high:  # comparisons with NaN are False
        return None
    kept: Array = (array > low) & (array < high)
    return kept
