"""Round the weights of one layer to integers: θ* = argmin over codes of J = tr(Δ C Δᵀ), Δ = W − s θ.

C is the covariance of the layer's inputs: the free bias absorbs the mean of the error in closed form. First GPTQ
(Frantar et al. 2023: round one column, spread its error over those not yet rounded), then coordinate descent: one code
at a time to its optimum given all others, which never raises J.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....compress.layers.covariance import Covariance, ridged
from ....ir import Array
from .factor import BLOCK, Factor, blocks, factor_of

DAMPING = 0.01
"""Added to the diagonal of C, relative to its mean, so that directions absent from calibration data cost something,
too. The value of Frantar et al. 2023."""
POLISHED = 4e9
"""The most multiply-adds of one sweep of coordinate descent over a layer: 0.1 s at 40 billion a second.
`python -m tests.bench.zoo_int8` shows the accuracy, `python -m tests.bench.quantize_time` the time."""
SWEEPS = 2
"""Sweeps of coordinate descent over the codes of a layer. A choice."""
AT_ONCE = 1 << 22
"""Weights rounded at a time: their copies, errors and products take 16 MB each."""


def objective(error: Array, covariance: Covariance) -> float:
    """J = tr(Δ C Δᵀ) for Δ [N, K] and C [K, K]: the mean of ‖Δ (x − E x)‖² over the data.

    Where the data do not vary, C consists of rounding errors, and J is clipped at 0.
    """
    return max(0.0, float(np.einsum("nk,nk->", error @ covariance, error, dtype=np.float64)))


def nearest(weight: Array, scale: Array, low: Array, high: Array) -> Array:
    """The nearest codes: weight, scale and bounds [N, K]; as f32."""
    return np.asarray(np.clip(np.rint(weight / scale), low, high))


def _bounded(codes: Array, low: Array, high: Array) -> Array:
    """f32 [N] rounded within bounds, in place: for a call a column, where `np.clip` takes longer than its work."""
    np.rint(codes, out=codes)
    np.maximum(codes, low, out=codes)
    return np.asarray(np.minimum(codes, high, out=codes))


def nearest_codes(weight: Array, scale: Array, low: Array, high: Array) -> Array:
    """`nearest` as int8; weights f32 and int8 bounds of any one shape, to which the scale broadcasts.

    Bounds are met as int8: in f32 each would be widened first.
    """
    ratio = weight / scale
    np.rint(ratio, out=ratio)
    np.clip(ratio, -127, 127, out=ratio)
    codes: Array = ratio.astype(np.int8)
    np.minimum(codes, high, out=codes)
    np.maximum(codes, low, out=codes)
    return codes


def best_codes(weight: Array, scale: Array, low: Array, high: Array, covariance: Covariance) -> Array:
    """Codes int8 [N, K] for f32 weight [N, K] with scale [N, K], within bounds [N, K], given C [K, K]."""
    best = spread_codes(weight, scale, low, high, covariance, damped_factor(covariance))
    if is_polished(weight):
        damped = ridged(covariance, damping(covariance))
        best = descend(weight, best.astype(np.float32), scale, low, high, damped).astype(np.int8)
    return best


def is_polished(weight: Array, most: float = POLISHED) -> bool:
    """Whether a sweep of coordinate descent over a layer takes at most as many multiply-adds."""
    return float(weight.size * weight.shape[1]) <= most


def damped_factor(covariance: Covariance) -> Factor | None:
    """The factor of the damped C; with ten times the damping where C is not positive definite in float32."""
    added = damping(covariance)
    factor = factor_of(covariance, added)
    return factor_of(covariance, 10 * added) if factor is None else factor


def spread_codes(
    weight: Array, scale: Array, low: Array, high: Array, covariance: Covariance, factor: Factor | None
) -> Array:  # fmt: skip
    """The codes int8 [N, K] before coordinate descent, GPTQ's or the nearest, by least error."""
    codes, gained = np.empty(weight.shape, np.int8), 0.0
    for part in parts_of(weight):
        given = weight[part], scale[part], low[part], high[part]
        codes[part] = plain = nearest(*given)
        if factor is not None:
            solved = _nearest_plane(factor, *given)
            codes[part] = solved
            gained += objective(given[0] - plain * given[1], covariance)
            gained -= objective(given[0] - solved * given[1], covariance)
    if factor is not None and not gained > 0:
        for part in parts_of(weight):
            codes[part] = nearest(weight[part], scale[part], low[part], high[part])
    return codes


def parts_of(weight: Array) -> Iterator[slice]:
    """Rows of a weight [N, K], some at a time: they do not depend on each other."""
    step = max(1, AT_ONCE // weight.shape[1])
    yield from (slice(at, at + step) for at in range(0, len(weight), step))


def damping(covariance: Covariance, share: float = DAMPING) -> np.float32:
    """The number added to the diagonal of C."""
    return np.float32(max(share * float(covariance.trace()) / len(covariance), 1e-12))


def _nearest_plane(factor: Factor, weight: Array, scale: Array, low: Array, high: Array) -> Array:
    """GPTQ as Babai's nearest plane, which needs no inverse: with C = M Mᵀ, J = ‖Mᵀ e‖² and Mᵀ is triangular.

    Columns of most variance are rounded first.
    """
    order = factor.order
    w = np.ascontiguousarray(weight[:, order].T)  # [K, N]: a column of the weight is a row here
    least, most, steps = (np.ascontiguousarray(a[:, order].T) for a in (low, high, scale))
    codes, state = np.empty_like(w), factor.start(w.shape[1])
    for block in blocks(len(w)):
        own, owed = factor.own(block), factor.owed(state, block)  # owed: Σ M[j, i] e_j over the rounded columns j
        errors = np.empty_like(owed)
        for i in range(len(own) - 1, -1, -1):
            j = block.start + i
            q = _bounded((w[j] + owed[i] / own[i, i]) / steps[j], least[j], most[j])
            codes[j] = q
            errors[i] = error = w[j] - q * steps[j]
            owed[:i] += own[i, :i, None] * error
        factor.spread(state, block, errors)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return np.asarray(codes[back].T)


def descend(weight: Array, codes: Array, scale: Array, low: Array, high: Array, c: Covariance) -> Array:
    """Coordinate descent on J; each step is exact: the gradient Δ C is kept up to date, block by block."""
    gradient = np.ascontiguousarray(((weight - codes * scale) @ c).T)  # [K, N]
    codes, steps = np.ascontiguousarray(codes.T), np.ascontiguousarray(scale.T)
    least, most = np.ascontiguousarray(low.T), np.ascontiguousarray(high.T)
    diagonal = c.diagonal()
    for _ in range(SWEEPS):
        moved = 0
        for start in range(0, len(codes), BLOCK):
            block = slice(start, min(start + BLOCK, len(codes)))
            inner, near = c[block, block], gradient[block].copy()
            shifts = np.zeros_like(near)
            for i, j in enumerate(range(block.start, block.stop)):
                # d J / d code = −2 s g; the best code is the present one moved by g / (s C_jj)
                target = _bounded(codes[j] + near[i] / (steps[j] * diagonal[j]), least[j], most[j])
                step = target - codes[j]
                if not step.any():
                    continue
                codes[j], shifts[i] = target, step * steps[j]
                near[i:] -= inner[i:, i, None] * shifts[i]
                moved += 1
            gradient -= c[:, block] @ shifts
        if not moved:
            break
    return np.asarray(codes.T)


def clipped_scale(weight: Array, scale: Array, low: Array, high: Array, variance: Array) -> Array:
    """Scale [N] of nearest codes with the least error for weight [N, K], by the variance [K] of each input.

    Clipping rare large weights gives all others finer steps.
    """
    best, least = scale.copy(), np.full(len(scale), np.inf)
    for share in np.linspace(1.0, 0.45, 23):
        tried = (scale * share).astype(np.float32)
        wrong = weight - nearest(weight, tried[:, None], low, high) * tried[:, None]
        cost = (wrong * wrong * variance).sum(axis=1)
        better = cost < least
        best[better], least[better] = tried[better], cost[better]
    return best
