"""Lines in place of tables by channel, proved over all codes: BatchNormalization between codes.

quantize(gamma · dequantize(x) + beta) is, for each channel, a line in the code, rounded and clipped. A line in float32
nearly always rounds to the same 256 codes, and a vector unit computes 16 of them in the time of one or two look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.memory import Array
from graphopt.kernels.tensors.quantization import Quantization

_STEPS = (0, 1, -1, 2, -2, 3, -3)
"""Units in the last place by which a slope is shifted, in the order tried; a channel without a proof ends in None."""
_BLOCK = 32
"""Channels proved at a time: 256 float64 of each fit a core's cache, and the first refusal ends the proof. A choice."""


class ChannelTables:
    """A table of 256 codes for each channel, and the lines in its place; both are computed when one is first read.

    `values` gives float32 [256] or [channels, 256], quantized by `y`; `x`: the quantization of the codes that index
    the tables, None where no line is sought.
    """

    def __init__(
        self, channels: int, values: Callable[[], npt.NDArray[np.float32]], x: Quantization | None, y: Quantization
    ) -> None:
        self._channels, self._values, self._x, self._y = channels, values, x, y

    def __len__(self) -> int:
        """The number of channels."""
        return self._channels

    @property
    def codes(self) -> Array:
        """One-byte codes [channels, 256]."""
        return self._made[0]

    @property
    def lines(self) -> npt.NDArray[np.float32] | None:
        """`proved_lines` of the tables; None where there are none."""
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[Array, npt.NDArray[np.float32] | None]:
        values = self._values()
        codes = self._y.quantize(values).reshape(-1, 256)
        if self._x is None:
            return codes, None
        return codes, proved_lines(values / np.float64(self._y.scale), codes, self._x, self._y.zero_point)


def proved_lines(
    values: npt.NDArray[np.floating[Any]], tables: Array, x: Quantization, zero_point: int
) -> npt.NDArray[np.float32] | None:
    """float32 [2, channels], slopes and shifts with clip(round_half_even(code · slope + shift) + zero point) = table.

    values: [channels, 256] by the bits of x's codes as u8, in units of the result's scale, the zero point not added.
    tables: the codes of these values. The limits of clip are the least and the greatest code of all tables; product and
    sum are rounded to float32. None where a channel has no such line.
    """
    if not np.all(np.isfinite(values)):
        return None
    codes = x.codes().astype(np.float64)
    order = np.argsort(codes)
    codes = codes[order]
    low, high = float(tables.min()) - zero_point, float(tables.max()) - zero_point
    lines = np.zeros((2, len(values)), np.float32)
    for begin in range(0, len(values), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        steps = tables[block, order].astype(np.float64) - zero_point
        found = _lines(values[block, order].astype(np.float64), steps, codes, low, high)
        if found is None:
            return None
        lines[:, block] = found
    return lines


def _lines(
    exact: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], codes: npt.NDArray[np.float64],
    low: float, high: float,
) -> npt.NDArray[np.float32] | None:  # fmt: skip
    """The lines of a block of channels, arrays in ascending order of codes; None where a channel has none."""
    slopes, lines = _slopes(exact, codes), np.zeros((2, len(exact)), np.float32)
    open_channels = np.arange(len(exact))
    for step in _STEPS:
        slope = slopes[open_channels]
        slope = (slope + step * np.spacing(np.abs(slope))).astype(np.float32)
        wanted = steps[open_channels]
        shift = _shifts(wanted, slope[:, None] * codes, low, high)
        made = codes.astype(np.float32) * slope[:, None] + shift[:, None]
        failed = np.any(np.rint(np.clip(made, np.float32(low), np.float32(high))) != wanted, axis=1)
        lines[:, open_channels] = slope, shift
        open_channels = open_channels[failed]
        if not len(open_channels):
            return lines
    return None


def _slopes(exact: npt.NDArray[np.float64], codes: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The slope of each row between its first and its last unclipped value.

    Repeated extremes count as clipped; extremes that occur once count as unclipped in rows with fewer than two others.
    """
    inside, single = np.ones(exact.shape, bool), np.ones(exact.shape, bool)
    for extreme in (exact.min(1, keepdims=True), exact.max(1, keepdims=True)):
        same = exact == extreme
        inside &= ~same
        single &= ~same | (same.sum(1, keepdims=True) == 1)
    inside = np.where(inside.sum(1, keepdims=True) < 2, single, inside)
    last_place = exact.shape[1] - 1
    first, last = inside.argmax(1), last_place - inside[:, ::-1].argmax(1)
    alone = first == last  # any line steeper than the one to the clipped neighbor works
    first, last = np.where(alone & (first == last_place), first - 1, first), np.where(alone & (last == 0), 1, last)
    rows = np.arange(len(exact))
    slopes: npt.NDArray[np.float32] = (exact[rows, last] - exact[rows, first]) / (codes[last] - codes[first])
    return slopes.astype(np.float32)


def _shifts(
    steps: npt.NDArray[np.float64], products: npt.NDArray[np.float64], low: float, high: float
) -> npt.NDArray[np.float32]:
    """The middle of the shifts with which all products of a row round to its steps, or are clipped to them."""
    least = np.where(steps > low, steps - 0.5, -np.inf) - products
    greatest = np.where(steps < high, steps + 0.5, np.inf) - products
    bottom, top = least.max(1), greatest.min(1)
    bottom = np.where(np.isfinite(bottom), bottom, np.where(np.isfinite(top), top - 2, low - 1))
    top = np.where(np.isfinite(top), top, bottom + 2)
    middle: npt.NDArray[np.float32] = ((bottom + top) / 2).astype(np.float32)
    return middle
