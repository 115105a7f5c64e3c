"""Codes for all layers: scales, rounding and bias, with J before and after."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ....compress.layers.linear import Linear
from ....compress.layers.moments import InputMoments
from ....ir import Array
from ..options import Quantize
from .grids import PAIR_LIMIT, Codes, bias_room, nonzero_scales, weight_scale, worst_pair
from .rounding import best_codes, clipped_scale, damping, nearest, nearest_codes, objective

BITS = {"int8": 8, "uint8": 8, "int4": 4}  # of a code


@dataclass(frozen=True, slots=True)
class Solved:
    """Codes of one layer.

    before, after: J = E‖W x − W_q x‖² of nearest rounding and of the codes; None without data. signal: E‖W x‖², to
    compare J with, less the mean where a bias takes it up as in J.
    """

    codes: Codes
    before: float | None
    after: float | None
    signal: float | None = None

    @property
    def error(self) -> float | None:
        """√(J / signal): relative error of the layer's result from its weights alone. None without data or signal."""
        if self.after is None or not self.signal:
            return None
        return math.sqrt(self.after / self.signal)


def solve(
    linear: Linear,
    moments: InputMoments | None,
    options: Quantize,
    safe: bool,
    step: float = 1.0,
    bits: int | None = None,
    block: int | None = None,
) -> Solved:
    """Choose the codes of one layer. Without moments: nearest rounding, the bias unchanged.

    safe: no pair of products of u8 with the codes may overflow 16 bits. step: the scale of the layer's input, with
    which its bias must fit 32 bits. block: how many inputs share a scale; None for all.
    """
    width = bits or BITS[options.weight_type]
    rows = linear.rows().astype(np.float32)
    scale, low, high = _scales(linear, rows, options, safe, step, width, block)
    if moments is None or not moments.count:
        codes = nearest_codes(rows, _spread(scale, rows.shape[2]), low, high)
        return Solved(Codes(codes, scale, linear.bias, width, worst_pair(codes)), None, None)
    codes, bias = np.empty(rows.shape, np.int8), linear.bias
    before = after = signal = 0.0
    for g in range(linear.groups):
        matrix = moments.covariance_of(g, centred=linear.takes_bias)
        signal += objective(rows[g], matrix)
        before += _cost(rows[g], nearest(rows[g], _spread(scale[g], rows.shape[2]), low[g], high[g]), scale[g], matrix)
        if options.per_channel and width < 8:
            scale[g] = _clipped(rows[g], scale[g], low[g], high[g], matrix)
        full = _spread(scale[g], rows.shape[2])
        chosen = best_codes(rows[g], full, low[g], high[g], matrix) if options.rounding else None
        codes[g] = nearest_codes(rows[g], full, low[g], high[g]) if chosen is None else chosen
        after += _cost(rows[g], codes[g], scale[g], matrix)
    if options.correct_bias and linear.takes_bias:
        error = rows - codes * _spread(scale, rows.shape[2])
        shift = np.einsum("gnk,gk->gn", error, moments.mean).reshape(-1)
        bias = (shift if bias is None else bias + shift).astype(np.float32)
    return Solved(Codes(codes, scale, bias, width, worst_pair(codes)), before, after, signal)


def _scales(
    linear: Linear, rows: Array, options: Quantize, safe: bool, step: float, width: int, block: int | None
) -> tuple[Array, Array, Array]:
    """Scale [G, N, B] for B blocks of inputs, and bounds [G, N, K]."""
    scale, low, high = weight_scale(rows, width, safe and not linear.is_depthwise)
    if options.reduce_range and width == 8:
        low, high = np.maximum(low, -64), np.minimum(high, 64)
        scale = np.maximum(scale, np.abs(rows).max(axis=-1) / np.float32(64))
    if linear.bias is not None:
        scale = np.maximum(scale, bias_room(linear.bias, step).reshape(scale.shape))
    if not options.per_channel:
        scale = np.full_like(scale, scale.max())
    if block is None or block >= rows.shape[2]:
        return scale[..., None], low, high
    peaks = np.abs(rows.reshape(*rows.shape[:2], -1, block)).max(axis=-1) / np.float32((1 << (width - 1)) - 1)
    return nonzero_scales(peaks), low, high


def _spread(scale: Array, depth: int) -> Array:
    """Scales [..., B] for every input: [..., K]."""
    if scale.shape[-1] == 1:
        return np.broadcast_to(scale, (*scale.shape[:-1], depth))
    return np.repeat(scale, depth // scale.shape[-1], axis=-1)


def _cost(rows: Array, codes: Array, scale: Array, matrix: Array) -> float:
    return objective(rows - codes * _spread(scale, rows.shape[1]), matrix)


def _clipped(rows: Array, scale: Array, low: Array, high: Array, matrix: Array) -> Array:
    """The scales of one group, clipped where that costs least."""
    blocks = scale.shape[1]
    variance = (np.diagonal(matrix) + damping(matrix)).reshape(blocks, -1)
    flat = (len(rows) * blocks, -1)
    per_row = np.tile(variance, (len(rows), 1))
    clipped = clipped_scale(rows.reshape(flat), scale.reshape(-1), low.reshape(flat), high.reshape(flat), per_row)
    return clipped.reshape(scale.shape)


def pair_safety(options: Quantize, target: str) -> bool:
    """Whether codes must be safe from 16-bit overflow: wherever onnxruntime runs them, unless the caller says no.

    graphopt's own kernels are exact; u8 weights take onnxruntime's exact path; weights alone meet no u8.
    """
    if options.reduce_range is not None or options.mode == "weights":
        return False
    return target != "graphopt" and options.weight_type != "uint8"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whether sums of two u8×s8 products of a layer are exact in 16 bits, and the reason."""

    is_exact: bool
    reason: str

    def __str__(self) -> str:
        return f"exact: {self.reason}" if self.is_exact else self.reason


FLOAT_PRODUCTS = Certificate(True, "float products")
NO_PAIRS = Certificate(True, "no pairs")


def pair_certificate(worst: int, options: Quantize) -> Certificate:
    """The certificate of a layer with codes whose worst pair is `worst`."""
    if options.weight_type == "uint8":
        return Certificate(True, "u8 weights")  # onnxruntime widens products of u8 with u8 to 32 bits
    if worst <= PAIR_LIMIT:
        return Certificate(True, f"{255 * worst} ≤ 32767")
    return Certificate(False, "may saturate on AVX2")
