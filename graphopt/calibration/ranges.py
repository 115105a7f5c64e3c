"""Quantization ranges from observers: min-max, percentile, entropy, mean squared error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir import Array
from .observers import HALF, Extent, Histogram

Range = tuple[float, float]
Cost = Callable[[Array, Array, float, float, int], float]

METHODS = ("minmax", "percentile", "entropy", "mse")
_SHARES = np.linspace(1.0, 0.2, 65)
"""Candidate ranges as shares of the extent, in steps of 1.25 %: three codes of 8 bits."""


def observer_for(method: str) -> Extent:
    """An empty observer for `method`."""
    return Extent() if method == "minmax" else Histogram()


def choose_range(
    seen: Extent, method: str, *, levels: int = 256, symmetric: bool = False, percentile: float = 99.99
) -> Range:
    """The range (low ≤ 0 ≤ high) that `levels` codes should cover, by one of METHODS.

    symmetric: low = −high, for codes without a zero point.
    """
    low, high = float(seen.low), float(seen.high)
    if method == "minmax" or not isinstance(seen, Histogram) or not seen.counts.any():
        chosen = low, high
    elif method == "percentile":
        chosen = _percentile(seen, percentile / 100)
    else:
        cost = _squared_error if method == "mse" else _divergence
        chosen = _least(seen, symmetric, levels, cost)
    low, high = float(chosen[0]), float(chosen[1])
    if symmetric:
        widest = max(-low, high)
        return -widest, widest
    return low, high


def _percentile(seen: Histogram, share: float) -> Range:
    """The range of the central `share` of the values, with equal tails cut off."""
    total = int(seen.counts.sum())
    below = np.cumsum(seen.counts)
    tail = (1 - share) * total / 2
    edges = (np.arange(seen.counts.size + 1) - seen.counts.size // 2) * (2.0**seen.exponent * 2 / seen.counts.size)
    low = float(edges[int(np.searchsorted(below, tail, side="right"))])
    high = float(edges[int(np.searchsorted(below, total - tail, side="left")) + 1])
    return min(max(low, float(seen.low)), 0.0), max(min(high, float(seen.high)), 0.0)


def _least(seen: Histogram, symmetric: bool, levels: int, cost: Cost) -> Range:
    """The range of least cost among shares of the extent: both ends scaled together, then each alone."""
    low, high = float(seen.low), float(seen.high)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    used = np.flatnonzero(seen.counts)
    if cost is _divergence:
        used = used[used != HALF]  # zeros, frequent after Relu, have an exact code in any range
    if not used.size:
        return low, high
    centres, counts = seen.centres[used], seen.counts[used].astype(np.float64)
    costs = [cost(centres, counts, share * low, share * high, levels) for share in _SHARES]
    share = float(_SHARES[int(np.argmin(costs))])
    low, high = share * low, share * high
    if symmetric or low == 0.0 or high == 0.0:
        return low, high
    for end in (0, 1):
        tried = [(s * low, high) if end == 0 else (low, s * high) for s in _SHARES]
        costs = [cost(centres, counts, tried_low, tried_high, levels) for tried_low, tried_high in tried]
        low, high = tried[int(np.argmin(costs))]
    return low, high


def _squared_error(centres: Array, counts: Array, low: float, high: float, levels: int) -> float:
    """Σ n (x − q(x))², the quantization error over the histogram."""
    step = (high - low) / (levels - 1)
    if step <= 0:
        return float(counts @ (centres * centres))
    codes = np.clip(np.rint((centres - low) / step), 0, levels - 1)
    wrong = low + codes * step - centres
    return float(counts @ (wrong * wrong))


def _divergence(centres: Array, counts: Array, low: float, high: float, levels: int) -> float:
    """KL(P‖Q) in nats: P the values clipped to the range, Q the values inside after rounding to codes."""
    inside = (centres >= low) & (centres <= high)
    if high <= low or not inside.any():
        return np.inf
    places = np.clip((centres - low) / (high - low) * levels, 0, levels - 1).astype(np.int64)
    clipped = np.bincount(places, counts, levels)
    first, last = places[inside][0], places[inside][-1]
    kept = np.bincount(places[inside], counts[inside], levels)
    spread = np.bincount(places[inside], minlength=levels)
    p, total = counts[inside].copy(), counts.sum()
    p[0] += clipped[first] - kept[first] + clipped[:first].sum()
    p[-1] += clipped[last] - kept[last] + clipped[last + 1 :].sum() if first != last else 0.0
    q = (kept / np.maximum(spread, 1))[places[inside]]
    p, q = p / total, q / q.sum()
    present = p > 0
    return float(p[present] @ np.log(p[present] / np.maximum(q[present], 1e-12)))
