"""Arrays on disk in place of memory: computed once, layer after layer, and read again when they are needed."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OutputError

Array = npt.NDArray[Any]

SEGMENT = 1 << 28
"""Bytes of one temporary file, or of a larger array: a map of each takes a file handle, of which a process has about a
thousand, and the codes of 8 GB of weights fill 8 to 16 files."""
_PAGE = 1 << 12  # bytes at which arrays begin: a page of memory


class _Segment(mmap.mmap):
    """A mapped temporary file, which goes with the last array that is read from it."""

    path: str
    address: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of an array lie: a file that exists while the array does, and their offset there."""

    path: str
    offset: int


class Spool:
    """Arrays in temporary files, read through maps, whose pages the system takes back when it needs them.

    They lie in the temporary folder ($TMPDIR), which must not be one that is itself kept in memory.
    """

    def __init__(self) -> None:
        self._segment: _Segment | None = None
        self._used = 0

    def keep(self, array: Array) -> Array:
        """The array, read-only, as it lies on disk. OutputError where that cannot be written."""
        array = np.ascontiguousarray(array)
        if not array.nbytes:
            return array
        try:
            if self._segment is None or self._used + array.nbytes > len(self._segment):
                self._segment, self._used = _segment(max(SEGMENT, array.nbytes)), 0
            segment, place = self._segment, self._used
            with open(segment.path, "r+b") as file:  # not through the map: a full disk would end the process
                file.seek(place)
                file.write(array.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise OutputError(f"the temporary folder {tempfile.gettempdir()!r}: {error.strerror or error}") from error
        self._used = -(-(place + array.nbytes) // _PAGE) * _PAGE
        return np.frombuffer(segment, array.dtype, array.size, place).reshape(array.shape)


def _segment(size: int) -> _Segment:
    handle, path = tempfile.mkstemp(prefix="graphopt-")
    try:
        os.truncate(handle, size)
        segment = _Segment(handle, size, access=mmap.ACCESS_READ)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(handle)
    segment.path = path
    segment.address = np.frombuffer(segment, np.uint8).ctypes.data
    weakref.finalize(segment, _remove, path)
    return segment


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def place_of(array: Array) -> Place | None:
    """Where a contiguous array that a `Spool` keeps lies on disk; None for any other."""
    owner: Any = array if array.flags.c_contiguous else None
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return Place(owner.path, array.ctypes.data - owner.address) if isinstance(owner, _Segment) else None
