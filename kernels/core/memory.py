"""Memory of kernels' arrays: aligned to a cache line, with readable slack behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Words = npt.NDArray[np.int64]

LINE = 64  # bytes of a cache line; every buffer starts on one
SLACK = 256  # bytes behind every buffer that kernels may read (never write)


def whole_lines(size: int) -> int:
    """`size` bytes rounded up to whole cache lines."""
    return -(-size // LINE) * LINE


def aligned_empty(size: int) -> npt.NDArray[np.uint8]:
    """`size` zero bytes that start on a cache line, with `SLACK` readable bytes behind them."""
    raw = np.zeros(size + SLACK + LINE, np.uint8)
    skip = -raw.ctypes.data % LINE
    return raw[skip : skip + size]


def aligned_copy(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an array, in C order, copied to memory of `aligned_empty`."""
    copy = aligned_empty(array.nbytes)
    copy[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return copy


def float_bits(value: float) -> int:
    """The bits of a float32, as int64 words carry them."""
    return int(np.float32(value).view(np.int32))
