"""Grids: the map between integers and real numbers of an activation, and of a linear operator's weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from ....calibration import Extent
from ....ir import Array
from ....kernels.tensors.quantization import Quantization

PAIR_LIMIT = 128
"""The largest sum of two weights of one sign for which 255 · (w1 + w2) fits 16 bits: 255 · 128 = 32640 ≤ 32767."""
BIAS_LIMIT = 2.0**30
"""The largest code of a bias: half of int32, which leaves room for the sum of products."""
LEAST = 1e-20
"""The smallest scale of weights: its product with an activation's scale of 1e-18 is still a normal float32."""


def activation_grid(low: float, high: float, signed: bool) -> Quantization:
    """One scale and zero point for [low, high] ∋ 0; zero has a code of its own. Unsigned codes start at low."""
    low, high = min(low, 0.0), max(high, 0.0)
    if signed:
        widest = max(-low, high)
        return Quantization(float(np.float32(max(widest / 127, 1e-30))), 0, True)
    scale = float(np.float32(max((high - low) / 255, 1e-30)))
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    # Rounding the zero point moved the range by up to half a step: widen the scale so that no end is cut by more.
    needed = max(high / (255 - zero) if zero < 255 else 0.0, -low / zero if zero else 0.0, 1e-30)
    return Quantization(float(np.float32(needed)), zero, False)


@dataclass(frozen=True, slots=True)
class NarrowGrid:
    """The grid of an activation of fewer than 8 bits, as a linear operator reads it: scale · (code − zero)."""

    scale: float
    zero: int
    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The least code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The greatest code."""
        return self.low + (1 << self.bits) - 1

    def rounded(self, x: Array) -> Array:
        """x rounded to the grid, f32."""
        scale = np.float32(self.scale)
        codes = np.clip(np.rint(x / scale) + self.zero, self.low, self.high)
        return np.asarray((codes - self.zero) * scale, np.float32)


def narrow_grid(low: float, high: float, bits: int, signed: bool) -> NarrowGrid:
    """The grid of `bits` that covers [low, high] ∋ 0; zero has a code of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    most = (1 << bits) - 1
    if signed:
        scale = max(high / (most >> 1), -low / ((most >> 1) + 1), 1e-30)
        return NarrowGrid(float(np.float32(scale)), 0, bits, True)
    scale = max((high - low) / most, 1e-30)
    return NarrowGrid(float(np.float32(scale)), int(np.clip(np.rint(-low / scale), 0, most)), bits, False)


@dataclass(frozen=True, slots=True)
class Codes:
    """Integers of a linear operator's weight.

    rows: int8 [G, N/G, K]. scale: f32 [G, N/G, B], for B blocks of `block` inputs, the last of which may be partial;
    of all inputs where `block` is None. bias: f32 [G · N/G], corrected for the mean error of rounding, or None. bits:
    the width they were chosen for. worst_pair: the largest |sum| of two codes of one sign in any row. zero: int8 [G,
    N/G, B], the code of 0 in each block; None for 0. is_stored: in mode dynamic, the product reads the codes as floats,
    and its input is not quantized.
    """

    rows: Array
    scale: Array
    bias: Array | None
    bits: int
    worst_pair: int
    block: int | None = None
    zero: Array | None = None
    is_stored: bool = False

    def holds_bias(self, step: float) -> bool:
        """Whether the bias fits 32 bits, in units of these scales times the input's scale `step`."""
        return self.bias is None or bool((bias_room(self.bias, step) <= self.scale.max(axis=-1).reshape(-1)).all())


def worst_pair(rows: Array) -> int:
    """The largest magnitude of a sum of two codes of one sign in a row, at any positions."""
    flat = rows.reshape(-1, rows.shape[-1])
    if flat.shape[-1] < 2:
        return int(np.abs(flat.astype(np.int16)).max(initial=0))
    return max(int((top.first + top.second).max(initial=0)) for top in _tops(flat))


@dataclass(frozen=True, slots=True)
class _Top:
    """The two largest magnitudes among the elements of one sign in each row, [..., 1], and the index of the first."""

    at: Array
    first: Array
    second: Array


def _tops(rows: Array) -> tuple[_Top, _Top]:
    """The positive and the negative elements of rows [..., K], K ≥ 2; magnitudes are 0 where there are none."""
    rest, wide = rows.copy(), np.result_type(rows, np.int16)
    places = rows.argmax(axis=-1)[..., None], rows.argmin(axis=-1)[..., None]
    first = [np.take_along_axis(rows, at, -1).astype(wide) for at in places]
    for at, value, other in zip(places, first, (np.minimum, np.maximum)):
        np.put_along_axis(rest, at, other(value, 0), -1)  # keeps the other sign's largest
    second = [end(axis=-1, keepdims=True).astype(wide) for end in (rest.max, rest.min)]
    signs = (1, -1)
    highest, lowest = (
        _Top(at, np.maximum(sign * a, 0), np.maximum(sign * b, 0))
        for sign, at, a, b in zip(signs, places, first, second)
    )
    return highest, lowest


def weight_scale(weight: Array, bits: int, safe: bool) -> tuple[Array, Array, Array]:
    """Scale [G, N] for rows f32 [G, N, K], and the least and greatest code of each weight [G, N, K].

    safe: the two largest of each sign of a row share 128 codes, so that no pair of products overflows 16 bits; a row
    with one large weight keeps more of its range than 7 bits would.
    """
    most = (1 << (bits - 1)) - 1
    low, high = np.full(weight.shape, -most, np.int8), np.full(weight.shape, most, np.int8)
    if not safe or 2 * most <= PAIR_LIMIT or weight.shape[-1] < 2:
        return nonzero_scales(np.abs(weight).max(axis=-1) / most), low, high
    tops = _tops(weight)
    scale = np.maximum(tops[0].first, tops[1].first) / most
    for top in tops:
        scale = np.maximum(scale, (top.first + top.second) / (PAIR_LIMIT - 1))
    scale = nonzero_scales(scale)
    for sign, bound, top in ((1, high, tops[0]), (-1, low, tops[1])):
        first = np.clip(np.rint(top.first / scale), PAIR_LIMIT // 2, most)
        bound[...] = (sign * (PAIR_LIMIT - first)).astype(np.int8)
        np.put_along_axis(bound, top.at, (sign * first).astype(np.int8), -1)
    return scale[..., 0], low, high


def bias_room(bias: Array, step: float) -> Array:
    """The least scales f32 [N] of a layer's weights at which its bias f32 [N] fits 32 bits."""
    return np.asarray(np.abs(bias) / np.float32(step * BIAS_LIMIT), np.float32)


def bias_codes(bias: Array, scale: Array) -> Array:
    """The codes of a bias [N] of these scales, whole numbers in f64."""
    return np.asarray(np.clip(np.rint(bias.astype(np.float64) / scale), -BIAS_LIMIT, BIAS_LIMIT))


def nonzero_scales(scale: Array) -> Array:
    """Scales as f32; scales up to `LEAST` are replaced by the finest other scale, or by 1 without any.

    Rows with such scales are practically zero: products with their scale would underflow, and a coarse scale would
    round their biases away.
    """
    live = scale > LEAST
    finest = scale[live].min() if live.any() else 1.0
    return np.asarray(np.where(live, scale, finest), np.float32)


def merged_extent(extents: list[Extent]) -> Extent:
    """The extent of all tensors together."""
    first = deepcopy(extents[0])
    for other in extents[1:]:
        first.merge(other)
    return first
