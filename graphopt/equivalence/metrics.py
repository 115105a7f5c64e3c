"""Distances between two tensors."""

from __future__ import annotations

import math

import numpy as np

from ..ir import Array


def max_error(reference: Array, other: Array) -> float:
    """max|reference − other| over the positions where both are finite, 0 without any. Shapes must be equal."""
    finite = np.isfinite(reference) & np.isfinite(other)
    if finite.all():
        return float(np.max(np.abs(_wide(reference) - _wide(other)), initial=0.0))
    return float(np.max(np.abs(_wide(reference[finite]) - _wide(other[finite])), initial=0.0))


def magnitude(array: Array) -> float:
    """max|array| over its finite elements; 0 where there are none."""
    top, low = float(np.max(array, initial=0.0)), float(np.min(array, initial=0.0))
    if math.isfinite(top) and math.isfinite(low):
        return max(top, -low)
    return float(np.max(np.abs(_wide(array[np.isfinite(array)])), initial=0.0))


def same_specials(reference: Array, other: Array) -> bool:
    """Whether NaN, +Inf and −Inf are at the same positions."""
    if np.isfinite(reference).all() and np.isfinite(other).all():
        return True
    nan = np.isnan(reference)
    if not np.array_equal(nan, np.isnan(other)):
        return False
    infinite = np.isinf(reference)
    return np.array_equal(infinite, np.isinf(other)) and np.array_equal(reference[infinite], other[infinite])


def sqnr_db(reference: Array, other: Array) -> float:
    """Signal to quantization-noise ratio 10 log10(Σ reference² / Σ (reference − other)²) in dB; inf when identical.

    Only positions finite in both count.
    """
    a, b = np.asarray(reference, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.all():
        a, b = a[finite], b[finite]
    difference = a - b
    noise, signal = float(difference @ difference), float(a @ a)
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def sqnr_text(db: float) -> str:
    """An SQNR as text, also an infinite one, without noise or without signal."""
    if math.isfinite(db):
        return f"SQNR {db:.1f} dB"
    return "the same results" if db > 0 else "other results where the reference has only zeros"


def cosine(reference: Array, other: Array) -> float:
    """Cosine of the angle between two tensors seen as vectors; 1 for two zero vectors, 0 if only one is zero."""
    a, b = np.asarray(reference, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.all():
        a, b = a[finite], b[finite]
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if lengths == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return max(-1.0, min(1.0, float(a @ b) / lengths))


def top1_agreement(reference: Array, other: Array) -> float | None:
    """Share of rows (the last axis: classes) with the same largest element; None for rows of fewer than two."""
    if reference.ndim == 0 or reference.shape[-1] < 2 or reference.size == 0:
        return None
    return float(np.mean(np.argmax(reference, axis=-1) == np.argmax(other, axis=-1)))


def _wide(array: Array) -> Array:
    """The array in a float type whose differences neither overflow nor round visibly; float32, most common, stays."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
