"""Layers whose groups have one row each, such as depthwise convolutions: rounds all rows at once, each by its own C.

`rounding.best_codes` per group takes half a millisecond for a row of 25 weights, nearly all of it call overhead.
"""

from __future__ import annotations

import numpy as np

from ....ir import Array
from .rounding import SWEEPS, damping, nearest


def damped(covariances: Array) -> Array:
    """C [G, K, K] with `damping` on each diagonal."""
    added = np.array([damping(c) for c in covariances], np.float32)
    return np.asarray(covariances + np.eye(covariances.shape[1], dtype=np.float32) * added[:, None, None])


def single_row_codes(weight: Array, scale: Array, low: Array, high: Array, covariances: Array) -> Array:
    """`rounding.best_codes` of rows f32 [G, K] with scale [G], bounds [G, K] and a separate C [G, K, K] each: int8."""
    plain, firm = nearest(weight, scale[:, None], low, high), damped(covariances)
    solved = nearest_plane(weight, scale, low, high, firm)
    costs = [row_costs(weight - codes * scale[:, None], covariances) for codes in (plain, solved)]
    codes = np.where((costs[1] < costs[0])[:, None], solved, plain)
    return descended(weight, codes, scale, low, high, firm).astype(np.int8)


def row_costs(error: Array, covariances: Array) -> Array:
    """Δ C Δᵀ of rows [G, K]: f64 [G]."""
    product = np.matmul(error[:, None, :], covariances)[:, 0]
    return np.asarray(np.einsum("gk,gk->g", product, error, dtype=np.float64))


def nearest_plane(weight: Array, scale: Array, low: Array, high: Array, firm: Array) -> Array:
    """Codes [G, K] by Babai's nearest plane, as in `best_codes`; the nearest where C is not positive definite."""
    order = np.argsort(np.einsum("gkk->gk", firm), axis=1, kind="stable")
    each = np.arange(len(weight))[:, None]
    try:
        factor = np.linalg.cholesky(firm[each[:, :, None], order[:, :, None], order[:, None, :]])
    except np.linalg.LinAlgError:
        if len(weight) == 1:
            return nearest(weight, scale[:, None], low, high)
        every = [tuple(a[g : g + 1] for a in (weight, scale, low, high, firm)) for g in range(len(weight))]
        return np.concatenate([nearest_plane(*alone) for alone in every])
    w, least, most = (np.take_along_axis(a, order, axis=1) for a in (weight, low, high))
    codes, owed = np.empty_like(w), np.zeros_like(w)
    for k in range(w.shape[1] - 1, -1, -1):
        codes[:, k] = np.clip(np.rint((w[:, k] + owed[:, k] / factor[:, k, k]) / scale), least[:, k], most[:, k])
        owed[:, :k] += factor[:, k, :k] * (w[:, k] - codes[:, k] * scale)[:, None]
    found = np.empty_like(codes)
    np.put_along_axis(found, order, codes, axis=1)
    return found


def descended(weight: Array, codes: Array, scale: Array, low: Array, high: Array, firm: Array) -> Array:
    """Coordinate descent on J of rows [G, K], one code at a time to its optimum."""
    codes, diagonal = codes.copy(), np.einsum("gkk->gk", firm)
    gradient = np.matmul((weight - codes * scale[:, None])[:, None, :], firm)[:, 0]
    for _ in range(SWEEPS):
        for k in range(weight.shape[1]):
            target = np.clip(np.rint(codes[:, k] + gradient[:, k] / (scale * diagonal[:, k])), low[:, k], high[:, k])
            gradient -= ((target - codes[:, k]) * scale)[:, None] * firm[:, k]
            codes[:, k] = target
    return codes
