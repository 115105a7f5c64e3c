"""Divisions by a constant scale replaced by multiplications, proved over all pairs of codes.

Add, Sub and Mul of two 8-bit tensors have 256 × 256 cases. quantize((a − za) · sa ∘ (b − zb) · sb) divides by the scale
of y, which takes a vector unit ten cycles; factors near sa / sy and sb / sy nearly always round to the same codes in
all cases; otherwise the division stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphopt.kernels.tensors.quantization import Quantization

BinaryOp = Literal["add", "subtract", "multiply"]
Floats = npt.NDArray[np.float32]

_REACH = 2  # units in the last place tried on both sides; a pair of scales not proved keeps its division


@lru_cache(maxsize=512)
def proved_factors(
    op: BinaryOp, a: Quantization, b: Quantization, y: Quantization, clamp: tuple[int, int] | None = None
) -> tuple[float, float] | None:
    """float32 (p, q) with clamp(quantize(a ∘ b)) = clamp(round_half_even((a − za) · p ∘ (b − zb) · q) + zy) always.

    Every operation is rounded in float32. None where no tried factors give equal codes for all pairs.
    """
    left, right = _centred(a), _centred(b)
    least, greatest = (y.low, y.high) if clamp is None else clamp
    low, high = np.float32(least - y.zero_point), np.float32(greatest - y.zero_point)
    with np.errstate(all="ignore"):
        exact = _combined(op, left * np.float32(a.scale), right * np.float32(b.scale)) / np.float32(y.scale)
        want = _rounded(exact, low, high)
        for p, q in _candidates(op, a.scale, b.scale, y.scale):
            if np.array_equal(_rounded(_combined(op, left * p, right * q), low, high), want):
                return float(p), float(q)
    return None


def _centred(x: Quantization) -> Floats:
    return (np.arange(x.low, x.high + 1) - x.zero_point).astype(np.float32)


def _combined(op: BinaryOp, left: Floats, right: Floats) -> Floats:
    a, b = left[:, None], right[None, :]
    return a + b if op == "add" else a - b if op == "subtract" else a * b


def _rounded(values: Floats, low: np.float32, high: np.float32) -> Floats:
    return np.rint(np.minimum(np.maximum(values, low), high))


def _candidates(op: BinaryOp, a: float, b: float, y: float) -> Iterator[tuple[np.float32, np.float32]]:
    if op == "multiply":
        yield from ((p, np.float32(1)) for p in _near(np.float32(a * b / y)))
        return
    yield from ((p, q) for p in _near(np.float32(a / y)) for q in _near(np.float32(b / y)))


def _near(value: np.float32) -> list[np.float32]:
    """The value and its neighboring floats, the nearest first; empty where the value is no normal number."""
    if not np.isfinite(value) or value < np.finfo(np.float32).tiny:
        return []
    neighbours, below, above = [value], value, value
    for _ in range(_REACH):
        below = np.nextafter(below, np.float32(0))
        above = np.nextafter(above, np.float32(np.inf))
        neighbours += [below, above]
    return neighbours
