"""Codes for all layers: scales, rounding and bias, with J before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .grids import Codes, per_tensor, weight_scale, worst_pair
from .linear import Linear
from .moments import Moments
from .options import Quantize
from .rounding import best_codes, clipped_scale, nearest, objective

Array = np.ndarray[Any, Any]
BIAS_LIMIT = 2.0**30
BITS = {"int8": 8, "uint8": 8, "int4": 4}


@dataclass(frozen=True, slots=True)
class Solved:
    """Codes of one layer with J = E‖W x − W_q x‖² of nearest rounding and of what was found (None without data)."""

    codes: Codes
    before: float | None
    after: float | None


def solve(
    linear: Linear, moments: Moments | None, options: Quantize, safe: bool, step: float = 1.0, bits: int | None = None
) -> Solved:
    """Choose the codes of one layer. Without moments: nearest rounding, the bias as it is.

    safe: no pair of products of u8 with the codes may overflow 16 bits. step: the scale of the layer's input, with
    which its bias must fit 32 bits.
    """
    width = bits or BITS[options.weight_type]
    rows = linear.rows().astype(np.float32)
    scale, low, high = weight_scale(rows, width, safe and not linear.is_depthwise)
    if options.reduce_range and width == 8:
        low, high = np.maximum(low, -64), np.minimum(high, 64)
        scale = np.maximum(scale, np.abs(rows).max(axis=-1) / np.float32(64))
    if linear.bias is not None:
        room = np.abs(linear.bias).reshape(scale.shape) / np.float32(step * BIAS_LIMIT)
        scale = np.maximum(scale, room.astype(np.float32))
    if not options.per_channel:
        scale = per_tensor(linear, scale)
    codes = np.empty(rows.shape, np.int8)
    bias = linear.bias
    if moments is None or not moments.count:
        for g in range(linear.groups):
            codes[g] = nearest(rows[g], scale[g], low[g], high[g]).astype(np.int8)
        return Solved(Codes(codes, scale, bias, width, worst_pair(codes)), None, None)
    covariance = moments.covariance if linear.takes_bias else moments.second / moments.count
    before = after = 0.0
    for g in range(linear.groups):
        before += objective(rows[g] - nearest(rows[g], scale[g], low[g], high[g]) * scale[g][:, None], covariance[g])
        if options.per_channel and width < 8:
            scale[g] = clipped_scale(rows[g], scale[g], low[g], high[g], covariance[g])
        if options.rounding:
            codes[g] = best_codes(rows[g], scale[g], low[g], high[g], covariance[g])
        else:
            codes[g] = nearest(rows[g], scale[g], low[g], high[g]).astype(np.int8)
        after += objective(rows[g] - codes[g] * scale[g][:, None], covariance[g])
    if options.correct_bias and linear.takes_bias:
        shift = np.einsum("gnk,gk->gn", rows - codes * scale[..., None], moments.mean).reshape(-1)
        bias = (shift if bias is None else bias + shift).astype(np.float32)
    return Solved(Codes(codes, scale, bias, width, worst_pair(codes)), before, after)


def pair_safety(options: Quantize, target: str) -> bool:
    """Whether codes must be safe from 16-bit overflow: wherever onnxruntime runs them, unless the caller says no.

    graphopt's own kernels are exact; u8 weights take onnxruntime's exact path.
    """
    if options.reduce_range is not None:
        return False  # the caller chose
    return target != "graphopt" and options.weight_type != "uint8"


def total(solved: Mapping[Any, Solved]) -> tuple[float, float]:
    """J of all layers before and after."""
    befores = [s.before for s in solved.values() if s.before is not None]
    afters = [s.after for s in solved.values() if s.after is not None]
    return sum(befores), sum(afters)
