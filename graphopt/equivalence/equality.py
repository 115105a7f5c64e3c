"""The rule of equality, applied to one output of one sample.

max|a − b| ≤ max(rtol max|b|, 3 noise)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import Array
from .metrics import cosine, magnitude, max_error, same_specials, sqnr_db, sqnr_text, top1_agreement

NOISY = 0.01
"""Noise above this share of an output's scale makes the output unverified: part of the definition of equality, in
docs/testing.md."""


@dataclass(frozen=True, slots=True)
class SampleComparison:
    """One output of one sample: `status` is equal, different or unverified."""

    status: str
    reason: str = ""
    error: float = 0.0
    allowed: float = 0.0
    noise: float = 0.0
    sqnr: float = math.inf
    cosine: float = 1.0
    top1: float | None = None

    @property
    def badness(self) -> float:
        """Error over allowed error, which ranks samples; any different sample outranks any unverified one."""
        rank = {"equal": 0.0, "unverified": 1e30, "different": 1e60}[self.status]
        return rank + (self.error / self.allowed if self.allowed > 0 else min(self.error, 1e20))


def leaves(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """The arrays in an output, with names: a tensor itself, or the elements of sequences and maps one by one."""
    if value is None:
        return
    if isinstance(value, dict):
        yield f"{name}.keys", np.asarray(sorted(value))
        yield f"{name}.values", np.asarray([value[k] for k in sorted(value)])
    elif isinstance(value, (list, tuple)):
        yield f"{name}.length", np.asarray(len(value))
        for i, item in enumerate(value):
            yield from leaves(f"{name}[{i}]", item)
    else:
        yield name, np.asarray(value)


def tolerance_of(dtype: np.dtype[Any], rtol: float) -> float:
    """The relative tolerance for a dtype: never below four of its own epsilons (3.9e-3 for float16)."""
    return max(rtol, 4.0 * float(np.finfo(dtype).eps)) if dtype.kind == "f" else rtol


def noise_of(base: Array, variants: list[Array]) -> float:
    """The largest spread between the original and its own variants; inf where their shapes or NaN and Inf differ."""
    noise = 0.0
    for other in variants:
        if other.shape != base.shape or not same_specials(base, other):
            return math.inf
        noise = max(noise, max_error(base, other))
    return noise


def exceeds(a: Array, b: Array, noise: float, rtol: float) -> float:
    """Error over allowed error, inf where shapes, NaN or Inf differ; a ratio above 1 means different."""
    if a.shape != b.shape:
        return math.inf
    if a.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):  # inf - inf
        error = float(np.max(np.abs(a - b)))
    if math.isnan(error) or math.isinf(error):
        if not same_specials(a, b):
            return math.inf
        error = max_error(a, b)
    if error == 0.0:
        return 0.0
    allowed = max(tolerance_of(a.dtype, rtol) * magnitude(b), 3 * noise)
    return error / allowed if allowed > 0 else math.inf


def compare_floats(
    a: Array, b: Array, noise: float, rtol: float, min_sqnr: float | None = None, scale: float = 0.0
) -> SampleComparison:
    """max|a − b| ≤ max(rtol max|b|, 3 noise), the same NaN and Inf; or, with `min_sqnr`, SQNR ≥ min_sqnr.

    `scale` is the output's scale if it is known to be larger than max|a| of this sample.
    """
    if a.shape != b.shape:
        if math.isinf(noise):
            return SampleComparison("unverified", "the original's own shape depends on rounding", noise=noise)
        reason = f"shape {list(a.shape)} became {list(b.shape)}"
        return SampleComparison("different", reason, math.inf, 0.0, noise, -math.inf, 0.0)
    error, scale = max_error(a, b), max(scale, magnitude(a))
    allowed = max(tolerance_of(a.dtype, rtol) * magnitude(b), 3 * noise)
    if error == 0.0:
        figures = (0.0, allowed, noise, math.inf, 1.0, 1.0 if a.ndim and a.shape[-1] > 1 and a.size else None)
    else:
        figures = (error, allowed, noise, sqnr_db(a, b), cosine(a, b), top1_agreement(a, b))
    if not same_specials(a, b):
        status = "unverified" if math.isinf(noise) else "different"
        return SampleComparison(status, "NaN or Inf stand at other positions", *figures)
    if min_sqnr is not None:
        if figures[3] >= min_sqnr:
            return SampleComparison("equal", "", *figures)
        return SampleComparison("different", f"{sqnr_text(figures[3])}: below {min_sqnr:g} dB", *figures)
    if error > allowed and not (noise > NOISY * scale and error <= 10 * allowed):
        return SampleComparison("different", f"error {error:.3g} exceeds {allowed:.3g}", *figures)
    if noise > NOISY * scale:
        reason = f"the original's own noise {noise:.3g} exceeds 1 % of scale {scale:.3g}"
        return SampleComparison("unverified", reason, *figures)
    return SampleComparison("equal", "", *figures)


def compare_exact(a: Array, b: Array, variants: list[Array], excused: Array | None) -> SampleComparison:
    """Compare integer, bool and string outputs, except where the original's own variants differ or a tie excuses."""
    if a.shape != b.shape:
        if any(v.shape != a.shape for v in variants):
            return SampleComparison("unverified", "the original's own shape depends on rounding", math.inf)
        return SampleComparison("different", f"shape {list(a.shape)} became {list(b.shape)}", math.inf)
    wrong = np.asarray(a != b)
    error = _integer_error(a, b) if wrong.any() else 0.0
    unstable = np.zeros(a.shape, np.bool_)
    for other in variants:
        if other.shape != a.shape:
            return SampleComparison("unverified", "the original's own shape depends on rounding", error)
        unstable |= other != a
    top1 = float(1.0 - wrong.mean()) if wrong.size else None
    unexcused = wrong & ~unstable if excused is None else wrong & ~unstable & ~excused
    if unexcused.any():
        reason = f"{int(wrong.sum())} of {wrong.size} elements differ without a tie"
        return SampleComparison("different", reason, error, top1=top1)
    if unstable.any() and unstable.mean() > NOISY:
        return SampleComparison(
            "unverified", "the original's own noise flips more than 1 % of the elements", error, top1=top1
        )
    return SampleComparison("equal", "", error, error, top1=top1)


def _integer_error(a: Array, b: Array) -> float:
    if a.dtype.kind not in "iu":
        return 1.0
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
