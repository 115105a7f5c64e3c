"""Weights of 2 to 4 bits: a scale and bounds for each row of least error, then codes and scales in turn.

2ᵇ codes are asymmetric about zero: −2 … 1 or −1 … 2 at 2 bits. Each row uses the side of less error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....compress.layers.covariance import Covariance, ridged
from ....ir import Array
from .grids import nonzero_scales
from .rounding import best_codes, damping, descend, nearest
from .single_rows import damped, descended, nearest_plane, row_costs

SHARES = np.linspace(1.0, 0.3, 29)
"""Candidate ranges as shares of the largest weight. `python -m tests.bench.below8` shows the effect."""
TURNS = 3
"""Alternations of scales in closed form and codes by descent. `python -m tests.bench.below8` shows the effect."""


def grouped_codes(rows: Array, covariances: Sequence[Covariance], bits: int) -> tuple[Array, Array]:
    """Codes int8 [G, N, K] and scale f32 [G, N, 1] of least error by C [G, K, K], for rows f32 [G, N, K]."""
    whole = [matrix for matrix in covariances if isinstance(matrix, np.ndarray)]
    if rows.shape[1] == 1 and whole:  # a depthwise convolution has many groups of one row
        codes, scale = _single_rows(rows[:, 0], np.stack(whole), bits)
        return codes[:, None], scale[:, None, None]
    found = [narrow_codes(weight, matrix, bits) for weight, matrix in zip(rows, covariances)]
    return np.stack([codes for codes, _ in found]), np.stack([scale for _, scale in found])[..., None]


def _single_rows(weight: Array, covariances: Array, bits: int) -> tuple[Array, Array]:
    """`narrow_codes` of rows [G, K] with a separate C [G, K, K] each, all at once."""
    firm = damped(covariances)
    scale, low, high = _start(weight, np.einsum("gkk->gk", firm), bits)
    codes = nearest_plane(weight, scale, low, high, firm)
    best, best_scale, least = codes.copy(), scale.copy(), np.full(len(weight), np.inf)
    for _ in range(TURNS + 1):
        codes = descended(weight, codes, scale, low, high, firm)
        cost = row_costs(weight - codes * scale[:, None], firm)
        better = cost < least
        best[better], best_scale[better], least[better] = codes[better], scale[better], cost[better]
        product = np.einsum("gk,gkl->gl", codes, firm)
        above, below = (product * weight).sum(axis=1), (product * codes).sum(axis=1)
        fits = (above > 0) & (below > 0)
        scale = np.where(fits, above / np.where(fits, below, 1), scale).astype(np.float32)
    return best.astype(np.int8), best_scale


def narrow_codes(weight: Array, covariance: Covariance, bits: int) -> tuple[Array, Array]:
    """Codes int8 [N, K] and scale f32 [N] of rows f32 [N, K] that cost least by C [K, K], one scale a row."""
    damped = ridged(covariance, damping(covariance))
    scale, low, high = _start(weight, damped.diagonal(), bits)
    best: tuple[Array, Array] | None = None
    least = np.full(len(weight), np.inf)
    codes = best_codes(weight, np.broadcast_to(scale[:, None], weight.shape), low, high, covariance).astype(np.float32)
    for turn in range(TURNS + 1):
        error = weight - codes * scale[:, None]
        cost = np.einsum("nk,nk->n", error @ damped, error, dtype=np.float64)
        if best is None:
            best = codes.copy(), scale.copy()
        better = cost < least
        best[0][better], best[1][better], least[better] = codes[better], scale[better], cost[better]
        if turn == TURNS:
            break
        product = codes @ damped
        above, below = (product * weight).sum(axis=1), (product * codes).sum(axis=1)
        fits = (above > 0) & (below > 0)
        scale = np.where(fits, above / np.where(fits, below, 1), scale).astype(np.float32)
        full = np.broadcast_to(scale[:, None], weight.shape)
        codes = descend(weight, codes, full, low, high, damped)
    assert best is not None
    return best[0].astype(np.int8), best[1]


def _start(weight: Array, variance: Array, bits: int) -> tuple[Array, Array, Array]:
    """Scale [N] and bounds [N, K] whose nearest codes cost least by the variance [K] or [N, K] of each input."""
    most = (1 << (bits - 1)) - 1
    widest = np.abs(weight).max(axis=1)
    best = nonzero_scales(widest / most)
    least, sides = np.full(len(weight), np.inf), np.zeros(len(weight), np.int8)
    for side in (0, 1):  # codes from −most − 1 to most, or one higher
        for share in SHARES:
            scale = nonzero_scales(widest * share / most)
            wrong = (
                weight
                - nearest(weight, scale[:, None], np.asarray(side - most - 1), np.asarray(side + most)) * scale[:, None]
            )
            cost = (wrong * wrong * variance).sum(axis=1)
            better = cost < least
            best[better], least[better], sides[better] = scale[better], cost[better], side
    low, high = (np.broadcast_to((end + sides)[:, None], weight.shape).astype(np.float32) for end in (-most - 1, most))
    return best, low, high
