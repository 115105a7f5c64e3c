"""Arrays spooled to disk instead of memory: computed once, layer after layer, and read again on demand."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from glob import escape, glob
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OutputError

if sys.platform != "win32":
    import fcntl

Array = npt.NDArray[Any]

SEGMENT = 1 << 28
"""Bytes of a temporary file, unless an array is larger: each map takes a file handle, of which a process has about a
thousand, and the codes of 8 GB of weights fill 8 to 16 files."""
_PAGE = 1 << 12  # bytes to which arrays are aligned: a page of memory
_LOCKED = "graphopt-spool-"
"""The name prefix of files that are locked as long as a process maps them: a file without a lock is left over from a
killed process."""


class _Segment(mmap.mmap):
    """A mapped temporary file, removed with the last array that views it."""

    path: str
    address: int


@dataclass(frozen=True, slots=True)
class Place:
    """The location of an array's bytes: a file that exists while the array does, and an offset."""

    path: str
    offset: int


class Spool:
    """Arrays in temporary files, read through maps, whose pages the system reclaims when it needs them.

    The files lie in the temporary folder ($TMPDIR), which must not be a file system in memory.
    """

    def __init__(self) -> None:
        self._segment: _Segment | None = None
        self._used = 0

    def keep(self, array: Array) -> Array:
        """A read-only copy of the array on disk. OutputError where the disk cannot be written."""
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
    _sweep(tempfile.gettempdir())
    handle, path = tempfile.mkstemp(prefix="graphopt-")
    try:
        path = _locked(handle, path)
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


def _locked(handle: int, path: str) -> str:
    """The new path of a file, locked and renamed; `path` itself where locks are not supported. The map and forked
    children share the lock, and the system frees it with the last of them, however it ends."""
    if sys.platform == "win32":
        return path
    locked = os.path.join(os.path.dirname(path), _LOCKED + os.path.basename(path))
    with suppress(OSError):  # some file systems have no locks
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.rename(path, locked)  # after locking: `_sweep` removes files of this name without a lock
        return locked
    return path


@cache
def _sweep(folder: str) -> None:
    """Remove files left over from this user's dead processes, once for each process and folder."""
    if sys.platform == "win32":
        return
    for path in glob(os.path.join(escape(folder), f"{_LOCKED}*")):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while a process maps it
                    os.unlink(path)
            finally:
                os.close(handle)


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def place_of(array: Array) -> Place | None:
    """The location of a contiguous array of a `Spool` on disk; None for any other array."""
    owner: Any = array if array.flags.c_contiguous else None
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return Place(owner.path, array.ctypes.data - owner.address) if isinstance(owner, _Segment) else None
