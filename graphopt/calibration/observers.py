"""Observers of a tensor while samples pass: its extent, or a histogram too. Bounded memory, mergeable.

Every observer has `add(array)`, `merge(other)`, `low` and `high`; merging in any order gives the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Array
from .masks import numbers

HALF = 2048
"""Bins on either side of zero: 16 for each code of 8 bits over the same range."""
KEPT = 1 << 16
"""Elements of one array that enter a histogram, 16 a bin; larger arrays are read in even strides. Extents see all
elements. `python -m tests.bench.quantize_time` shows the time."""
_LEAST = -100  # exponents below this would overflow the reciprocal of a bin's width


class Extent:
    """The least and greatest element: numbers, or arrays along `axis`. Always includes zero, which must have a code.

    masked: number of elements excluded from the extent because no code could represent them (see `numbers`); with
    `axis`, per index whether its least or greatest element was one.
    """

    __slots__ = ("axis", "high", "low", "masked", "seen")

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.low: Any = 0.0
        self.high: Any = 0.0
        self.masked: Any = 0
        self.seen = 0

    def add(self, array: Array) -> None:
        """Take one array in."""
        self._numbers_of(array)

    def _numbers_of(self, array: Array) -> Array:
        """Take one array in; returns its elements to quantize."""
        self.seen += array.size
        kept = None if self.axis is not None else numbers(array)
        if kept is not None:
            self.masked += int(array.size - np.count_nonzero(kept))
            array = array[kept]
        if array.size == 0:
            return array
        if self.axis is None:
            self._widen(float(array.min()), float(array.max()))
            return array
        others = tuple(i for i in range(array.ndim) if i != self.axis % array.ndim)
        ends = np.stack((array.min(axis=others), array.max(axis=others)))
        kept = numbers(ends)
        fit = np.full(ends.shape[1], True) if kept is None else kept.all(axis=0)
        self.masked = self.masked | ~fit
        self._widen(*np.where(fit, ends, 0.0))
        return array

    def _widen(self, low: Any, high: Any) -> None:
        if self.axis is None:
            self.low, self.high = min(self.low, low), max(self.high, high)
        else:
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def merge(self, other: Extent) -> None:
        """Take in the elements that another observer saw."""
        self._widen(other.low, other.high)
        self.masked = self.masked + other.masked if self.axis is None else self.masked | other.masked
        self.seen += other.seen


class Histogram(Extent):
    """An extent, and counts in 2 · 2048 bins over [−2^e, 2^e]; e grows as needed by joining bins in pairs, exactly."""

    __slots__ = ("counts", "exponent")

    def __init__(self) -> None:
        super().__init__(None)
        self.counts = np.zeros(2 * HALF, np.int64)
        self.exponent = _LEAST

    def add(self, array: Array) -> None:
        """Take one array in."""
        array = self._numbers_of(array)
        if array.size == 0:
            return
        self._grow(_exponent_of(max(-self.low, self.high)))
        flat = array.reshape(-1)
        if flat.size > KEPT:
            flat = flat[:: -(-flat.size // KEPT)]
        places = flat * np.float32(HALF * 2.0**-self.exponent)
        places += np.float32(HALF)
        np.clip(places, 0, 2 * HALF - 1, out=places)
        self.counts += np.bincount(places.astype(np.int32), minlength=2 * HALF)

    def merge(self, other: Extent) -> None:
        """Take in the elements that another histogram saw."""
        assert isinstance(other, Histogram)
        super().merge(other)
        exponent = max(self.exponent, other.exponent)
        self._grow(exponent)
        self.counts += _joined(other.counts, exponent - other.exponent)

    def _grow(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _joined(self.counts, exponent - self.exponent)
            self.exponent = exponent

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        width = 2.0**self.exponent / HALF
        return np.asarray((np.arange(2 * HALF) - HALF + 0.5) * width)


def _exponent_of(magnitude: float) -> int:
    return max(_LEAST, int(np.frexp(np.float32(magnitude))[1])) if magnitude > 0 else _LEAST


def _joined(counts: Array, times: int) -> Array:
    """Counts over a range 2^times as wide: bins merged from the middle outward."""
    if times <= 0:
        return counts.copy()
    if not counts.any():
        return np.zeros_like(counts)
    for _ in range(min(times, 13)):
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[HALF // 2 : HALF // 2 + HALF] = pairs
    return counts
