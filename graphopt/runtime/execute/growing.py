"""Growing caches at run time: each run appends rows to memory with spare room, without copying the earlier rows."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ir import Array
from ...kernels import Program
from ..compile.executable import Executable, Use

_LEAST = 64
"""The least rows that memory has room for: 64 steps behind a first token. Beyond, the room doubles, so that a row is
copied but once on average (derived)."""

Rows = npt.NDArray[Any]
"""A cache, [batch, heads, rows, size]: float32, or bytes, which are rows of codes."""


@dataclass(slots=True)
class _Memory:
    """The memory of a cache, [batch, heads, room, size], whose first `filled` rows are in use."""

    array: Rows
    address: int
    filled: int

    @property
    def stride(self) -> int:
        """Bytes between heads."""
        return self.array.strides[1]


class _Cache(NamedTuple):
    """Rows as a kernel reads them: the caller's array, its address, and the bytes between its heads.

    A decoder builds a hundred a token: building a tuple takes a third of a frozen dataclass's time.
    """

    array: Rows
    address: int
    stride: int


class CacheMemory:
    """The memory of caches handed out to the caller: the next run writes behind the rows of a cache fed back.

    A cache grows in place if no row was written behind it yet; a second continuation of it gets memory of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._homes: dict[int, tuple[weakref.ref[Rows], _Memory]] = {}

    def grown(self, past: Array, count: int) -> tuple[_Cache, _Cache]:
        """The cache `past`, copied if kernels cannot read it in place, and one with room for `count` more rows."""
        batch, heads, rows, size = past.shape
        with self._lock:
            handed, memory = self._homes.get(id(past), (None, None))
            if handed is None or memory is None or handed() is not past:
                dense = _with_even_heads(past)
                memory, source = None, _Cache(dense, int(dense.ctypes.data), dense.strides[1])
            else:
                source = _Cache(past, memory.address, memory.stride)
            if memory is None or memory.filled != rows or rows + count > memory.array.shape[2]:
                fresh = np.empty((batch, heads, max(_LEAST, 2 * (rows + count)), size), source.array.dtype)
                memory = _Memory(fresh, int(fresh.ctypes.data), 0)
            memory.filled = rows + count
            made = memory.array[:, :, : rows + count]
            self._hand_out(made, memory)
            return source, _Cache(made, memory.address, memory.stride)

    def _hand_out(self, made: Rows, memory: _Memory) -> None:
        """Record the memory of an array for as long as the array lives."""
        number, homes = id(made), self._homes

        def forget(gone: object) -> None:
            if number in homes and homes[number][0] is gone:  # a newer array may have the same id by now
                del homes[number]

        homes[number] = weakref.ref(made, forget), memory


def _with_even_heads(cache: Array) -> Rows:
    """The cache itself if its rows are dense and its heads evenly spaced, as kernels read them; else a copy."""
    itemsize, (_, heads, rows, size) = cache.itemsize, cache.shape
    strides = cache.strides
    even = strides[3] == itemsize and (rows < 2 or strides[2] == size * itemsize) and strides[1] >= 0
    known = cache.dtype in (np.float32, np.uint8)
    if even and strides[0] == heads * strides[1] and cache.flags.aligned and known:
        return cache
    return np.ascontiguousarray(cache, cache.dtype if known else np.float32)


class Grown:
    """The growing caches of one context: the program's arguments that depend on them, and the present run's arrays."""

    def __init__(
        self, executable: Executable, uses: Mapping[int, Sequence[Use]], program: Program, memory: CacheMemory
    ) -> None:
        growth = executable.growth
        assert growth is not None
        self._program, self._memory, self._growth = program, memory, growth
        buffers = [growth.rows]
        for index in growth.masks:
            mask = executable.sources[index]
            assert mask is not None
            buffers.append(mask.buffer)
        for cache in growth.caches:
            source = executable.sources[cache.source]
            assert source is not None
            buffers += source.buffer, cache.past_stride, executable.results[cache.result].buffer, cache.stride
        places = [[program.place(step, argument) for step, argument, _ in uses.get(b, ())] for b in buffers]
        self._places = np.array([place for one in places for place in one], np.intp)
        self._numbers = np.repeat(np.arange(len(buffers)), [len(one) for one in places])
        self.sources = frozenset((*(cache.source for cache in growth.caches), *growth.masks))
        self.results = frozenset(cache.result for cache in growth.caches)
        self._held: list[Any] = []
        self._made: dict[int, Rows] = {}

    def load(self, arrays: Sequence[Array]) -> None:
        """Let the program read these caches and masks, and write behind the caches."""
        growth = self._growth
        words = [arrays[growth.caches[0].source].shape[2]]
        for index in growth.masks:
            mask = np.ascontiguousarray(arrays[index], np.float32)
            self._held.append(mask)
            words.append(int(mask.ctypes.data))
        for cache in growth.caches:
            past, made = self._memory.grown(arrays[cache.source], growth.count)
            self._held.append(past.array)
            self._made[cache.result] = made.array
            words += *past[1:], *made[1:]
        self._program.rebind_all(self._places, np.array(words, np.int64)[self._numbers])

    def take(self) -> dict[int, Rows]:
        """The longer caches by the number of the output; the inputs are let go."""
        made, self._made, self._held = self._made, {}, []
        return made
