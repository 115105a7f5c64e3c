"""The oracles: operators as the ONNX specification writes them, in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels import aligned_empty
from graphopt.kernels.layout.interpolate import Taps

Array = npt.NDArray[Any]


def placed(array: Array) -> Array:
    """A copy where kernels want it: aligned, contiguous, slack behind."""
    memory = aligned_empty(array.nbytes).view(array.dtype)
    memory[:] = array.reshape(-1)
    return memory.reshape(array.shape)


def empty(shape: tuple[int, ...], dtype: Any, fill: int = 0x5A) -> Array:
    """An output to be written: aligned, filled with a byte that a missed element betrays."""
    dtype = np.dtype(dtype)
    memory = aligned_empty(int(np.prod(shape)) * dtype.itemsize)
    memory[:] = fill
    return memory.view(dtype).reshape(shape)


def quantize(x: Array, scale: Any, zero_point: int, dtype: Any) -> Array:
    """saturate(round_half_even(x / scale) + zero_point); NaN gives the zero point."""
    info = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        v = np.rint(np.asarray(x, np.float32) / np.float32(scale))
    v = np.where(np.isnan(v), np.float32(0), v)
    return (np.clip(v, info.min - zero_point, info.max - zero_point).astype(np.int64) + zero_point).astype(dtype)


def conv_sums(
    x: Array,
    w: Array,
    x_zero: int,
    w_zero: Any,
    bias: Array | None,
    strides: Any,
    pads: Any,
    dilations: Any,
    groups: int,
) -> Array:
    """ConvInteger plus bias on NHWC x and OIHW w: int32 sums [N, OH, OW, O]."""
    n, h, wd, c = x.shape
    o, cg, kh, kw = w.shape
    centred = np.zeros((n, h + pads[0] + pads[2], wd + pads[1] + pads[3], c), np.int64)
    centred[:, pads[0] : pads[0] + h, pads[1] : pads[1] + wd] = x.astype(np.int64) - x_zero
    w64 = w.astype(np.int64) - np.broadcast_to(w_zero, (o,)).astype(np.int64)[:, None, None, None]
    oh = (centred.shape[1] - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    ow = (centred.shape[2] - dilations[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((n, oh, ow, o), np.int64)
    for g in range(groups):
        inside, outside = slice(g * cg, (g + 1) * cg), slice(g * o // groups, (g + 1) * o // groups)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilations[0], j * dilations[1]
                rows = slice(top, top + (oh - 1) * strides[0] + 1, strides[0])
                columns = slice(left, left + (ow - 1) * strides[1] + 1, strides[1])
                y[..., outside] += centred[:, rows, columns, inside] @ w64[outside, :, i, j].T
    return (y + (0 if bias is None else bias)).astype(np.int32)


def requantize(
    sums: Array, scale: Array, zero_point: int, dtype: Any, low: int | None = None, high: int | None = None
) -> Array:
    """saturate(round_half_even(float32(sum) · scale) + zero_point), then clipped to [low, high]."""
    info = np.iinfo(dtype)
    v = np.rint(sums.astype(np.float32) * scale.astype(np.float32)).astype(np.float64)
    low = info.min if low is None else low
    high = info.max if high is None else high
    return np.clip(v + zero_point, low, high).astype(dtype)


def resize_linear(x: Array, rows: Taps, columns: Taps) -> Array:
    """x float32 [n, h, w, c] between two rows and two columns, in the order of the sum that the kernel has."""
    y: Array = np.zeros((len(x), rows.places.shape[1], columns.places.shape[1], x.shape[3]), np.float32)
    for i, (places, weights) in enumerate(zip(rows.places, rows.weights)):
        for j, (others, more) in enumerate(zip(columns.places, columns.weights)):
            product = (weights[:, None] * more)[:, :, None] * x[:, places][:, :, others]
            y = product if i == j == 0 else y + product
    return y
