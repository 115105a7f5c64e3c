"""Memory of kernels' arrays: aligned to a cache line, with readable slack behind."""

from __future__ import annotations

import threading
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


_PIECE = 1 << 24
"""Bytes of memory that constants are cut from: some large pages of 2 MB, of which both ends may be small. Derived."""

_SMALL, _LARGE = 1 << 16, 1 << 22
"""Bytes of constants that are cut from pieces: smaller ones hold no piece for themselves, larger ones numpy puts on
large pages."""


class _Pieces(threading.local):
    """The rest of the piece that a thread cuts from. Constants hold the pieces that they lie in."""

    def __init__(self) -> None:
        self.rest = np.empty(0, np.uint8)


_pieces = _Pieces()


def constant_memory(size: int) -> npt.NDArray[np.uint8]:
    """As `aligned_empty`, for constants that are read from their beginning to their end in each run, side by side.

    A processor that reads ahead waits at each page of 4 KB for its address. Weights of a token of SmolLM2-135M, 84 MB,
    are read in 0.7 to 0.95 of the time from large pages (`python -m tests.bench.decoders`), which numpy asks for from
    4 MB only.
    """
    if not _SMALL <= size < _LARGE:
        return aligned_empty(size)
    room = whole_lines(size + SLACK)
    if room > _pieces.rest.size:
        _pieces.rest = aligned_empty(_PIECE)
    taken, _pieces.rest = _pieces.rest[:size], _pieces.rest[room:]
    return taken


def aligned_copy(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an array, in C order, copied to memory for constants."""
    copy = constant_memory(array.nbytes)
    copy[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return copy


def float_bits(value: float) -> int:
    """The bits of a float32, as int64 words carry them."""
    return int(np.float32(value).view(np.int32))
