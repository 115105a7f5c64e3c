"""The oracles: operators as the ONNX specification writes them, in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels import aligned_empty

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
