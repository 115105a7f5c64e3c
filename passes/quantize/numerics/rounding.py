"""Round the weights of one layer to integers: θ* = argmin over codes of J = tr(Δ C Δᵀ), Δ = W − s θ.

C is the covariance of the layer's inputs: the free bias absorbs the mean of the error in closed form. First GPTQ
(Frantar et al. 2023: round one column, spread its error over those not yet rounded), then coordinate descent: one code
at a time to its optimum given all others, which never raises J.
"""

from __future__ import annotations

import numpy as np

from ....ir import Array

DAMPING = 0.01
"""Added to the diagonal of C, relative to its mean, so that directions absent from calibration data cost something,
too. The value of Frantar et al. 2023."""
POLISHED = 4e9
"""The most multiply-adds of one sweep of coordinate descent over a layer: 0.1 s at 40 billion a second.
`python -m tests.bench.zoo_int8` shows the accuracy, `python -m tests.bench.quantize_time` the time."""
SWEEPS = 2
"""Sweeps of coordinate descent over the codes of a layer. A choice."""
_BLOCK = 32
"""Columns rounded before their error is spread over the rest by one product. Not tuned finely: 16 to 64 take as long,
the 128 of Frantar et al. 2023 a third more, on 1,536 rows of 576."""


def objective(error: Array, covariance: Array) -> float:
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


def best_codes(weight: Array, scale: Array, low: Array, high: Array, covariance: Array) -> Array:
    """Codes int8 [N, K] for f32 weight [N, K] with scale [N, K], within bounds [N, K], given C [K, K]."""
    best, damped = spread_codes(weight, scale, low, high, covariance)
    if is_polished(weight):
        best = descend(weight, best, scale, low, high, damped)
    return best.astype(np.int8)


def is_polished(weight: Array, most: float = POLISHED) -> bool:
    """Whether a sweep of coordinate descent over a layer takes at most as many multiply-adds."""
    return float(weight.size * weight.shape[1]) <= most


def spread_codes(weight: Array, scale: Array, low: Array, high: Array, covariance: Array) -> tuple[Array, Array]:
    """The codes f32 [N, K] before coordinate descent, GPTQ's or the nearest, by least error; and the damped C."""
    plain = nearest(weight, scale, low, high)
    damped = ridged(covariance, damping(covariance))
    candidates = [plain]
    solved = _nearest_plane(weight, scale, low, high, damped)
    if solved is None:  # its least eigenvalues are below float32's resolution
        solved = _nearest_plane(weight, scale, low, high, ridged(damped, 9 * damping(covariance)))
    if solved is not None:
        candidates.append(solved)
    costs = [objective(weight - codes * scale, covariance) for codes in candidates]
    return candidates[int(np.argmin(costs))], damped


def ridged(covariance: Array, added: np.float32) -> Array:
    """C [K, K] with a number added to its diagonal: one copy, which is 0.1 GB for 5,760 inputs."""
    ridged = covariance.copy()
    ridged.reshape(-1)[:: len(covariance) + 1] += added
    return ridged


def damping(covariance: Array, share: float = DAMPING) -> np.float32:
    """The number added to the diagonal of C."""
    return np.float32(max(share * float(np.trace(covariance)) / len(covariance), 1e-12))


def _nearest_plane(weight: Array, scale: Array, low: Array, high: Array, damped: Array) -> Array | None:
    """GPTQ as Babai's nearest plane, which needs no inverse: with C = M Mᵀ, J = ‖Mᵀ e‖² and Mᵀ is triangular.

    Columns of most variance are rounded first; None where C is not positive definite in float32.
    """
    order = np.argsort(np.diagonal(damped), kind="stable")
    factor = _factor(damped, order)
    if factor is None or not np.isfinite(factor).all():
        return None
    w = np.ascontiguousarray(weight[:, order].T)  # [K, N]: a column of the weight is a row here
    least, most, steps = (np.ascontiguousarray(a[:, order].T) for a in (low, high, scale))
    codes, owed = np.empty_like(w), np.zeros_like(w)  # owed: Σ M[j, i] e_j over the already rounded columns j
    for end in range(len(w), 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        errors = np.empty((end - start, w.shape[1]), np.float32)
        for j in range(end - 1, start - 1, -1):
            q = _bounded((w[j] + owed[j] / factor[j, j]) / steps[j], least[j], most[j])
            codes[j] = q
            error = w[j] - q * steps[j]
            errors[j - start] = error
            owed[start:j] += factor[j, start:j, None] * error
        owed[:start] += factor[start:end, :start].T @ errors
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return np.asarray(codes[back].T)


def _factor(damped: Array, order: Array) -> Array | None:
    """M of P C Pᵀ = M Mᵀ, f32 [K, K], found in place in double precision; None where it is not positive definite."""
    from scipy.linalg import LinAlgError, cholesky

    wide = np.empty(damped.shape, np.float64, order="F")
    for column, at in enumerate(order):
        wide[:, column] = damped[at, order]
    try:
        return np.ascontiguousarray(cholesky(wide, lower=True, overwrite_a=True, check_finite=False), np.float32)
    except LinAlgError:
        return None


def descend(weight: Array, codes: Array, scale: Array, low: Array, high: Array, c: Array) -> Array:
    """Coordinate descent on J; each step is exact: the gradient Δ C is kept up to date, block by block."""
    gradient = np.ascontiguousarray(((weight - codes * scale) @ c).T)  # [K, N]
    codes, steps = np.ascontiguousarray(codes.T), np.ascontiguousarray(scale.T)
    least, most = np.ascontiguousarray(low.T), np.ascontiguousarray(high.T)
    diagonal = np.diagonal(c)
    for _ in range(SWEEPS):
        moved = 0
        for start in range(0, len(codes), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(codes)))
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
    """Scale [N] of nearest codes with the least error for weight [N, K], by the variance [N, K] of each input.

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
