"""Growing caches at run time: each run appends rows to memory with spare room, without copying the earlier rows."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ir import Array
from ...kernels import Program, aligned_empty
from ...kernels.core.memory import whole_lines
from ..compile.executable import Executable, Use

_LEAST = 64
"""The least rows that memory has room for: 64 steps behind a first token. Beyond, the room doubles, so that a row is
copied but once on average (derived)."""

Rows = npt.NDArray[Any]
"""A cache, [batch, heads, rows, size], of float32."""


class KeptCache:
    """A cache of a text that a session writes and nobody else has: each run adds rows to it where it lies.

    Such a one is no array that would be made, looked for and checked a hundred times a token. `shape`: [batch, heads,
    rows, size]; `dtype`: float32, or uint8 for rows of codes. Caches that share `memory` gain rows alike.
    """

    __slots__ = ("_memory", "_shown", "address", "array", "dtype", "shape", "stride")

    def __init__(self, batch: int, heads: int, size: int, dtype: npt.DTypeLike, memory: SharedMemory) -> None:
        self.shape, self.dtype = (batch, heads, 0, size), np.dtype(dtype)
        self.array, self._shown = np.empty(self.shape, self.dtype), np.empty(0, np.float32)
        self.address, self.stride = 0, 0
        self._memory = memory
        memory.caches.append(self)

    def extend(self, count: int) -> None:
        """Add `count` rows, whose content a kernel writes."""
        batch, heads, rows, size = self.shape
        if rows + count > self.array.shape[2]:
            self._memory.grow(rows + count)
        self.shape = batch, heads, rows + count, size

    def move(self, array: Rows) -> None:
        """Put the rows where there is room for more."""
        rows = self.shape[2]
        array[:, :, :rows] = self.array[:, :, :rows]
        self.array, self.address, self.stride = array, int(array.ctypes.data), array.strides[1]

    def shape_alone(self, size: int) -> Rows:
        """A dense float32 array of as many rows of `size` numbers, for nodes that ask for its shape: what it holds is
        neither written nor read, so that the system never finds memory for it."""
        shape = *self.shape[:-1], size
        if prod(shape) > self._shown.size:
            self._shown = np.empty(2 * prod(shape), np.float32)
        return self._shown[: prod(shape)].reshape(shape)


class SharedMemory:
    """The memory of all caches of a text: large enough for large pages, without which reads wait for addresses."""

    def __init__(self) -> None:
        self.caches: list[KeptCache] = []

    def grow(self, rows: int) -> None:
        """Make room for as many rows of each cache again."""
        room = max(_LEAST, 2 * rows)
        shapes = [(*cache.shape[:2], room, cache.shape[3]) for cache in self.caches]
        sizes = [prod(shape) * cache.dtype.itemsize for shape, cache in zip(shapes, self.caches)]
        begins = [0, *accumulate(map(whole_lines, sizes))]
        memory = aligned_empty(begins[-1])
        for cache, shape, size, begin in zip(self.caches, shapes, sizes, begins):
            cache.move(memory[begin : begin + size].view(cache.dtype).reshape(shape))


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
                fresh = np.empty((batch, heads, max(_LEAST, 2 * (rows + count)), size), np.float32)
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
    if even and strides[0] == heads * strides[1] and cache.flags.aligned and cache.dtype == np.float32:
        return cache
    return np.ascontiguousarray(cache, np.float32)


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
        self._made: dict[int, Rows | KeptCache] = {}

    def load(self, arrays: Sequence[Array | KeptCache]) -> None:
        """Let the program read these caches and masks, and write behind the caches."""
        growth = self._growth
        words = [arrays[growth.caches[0].source].shape[2]]
        for index in growth.masks:
            mask = np.ascontiguousarray(arrays[index], np.float32)
            self._held.append(mask)
            words.append(int(mask.ctypes.data))
        for cache in growth.caches:
            given = arrays[cache.source]
            if isinstance(given, KeptCache):
                given.extend(growth.count)
                self._made[cache.result] = given
                words += given.address, given.stride, given.address, given.stride
                continue
            past, made = self._memory.grown(given, growth.count)
            self._held.append(past.array)
            self._made[cache.result] = made.array
            words += *past[1:], *made[1:]
        self._program.rebind(self._places, np.array(words, np.int64)[self._numbers])

    def take(self) -> dict[int, Rows | KeptCache]:
        """The longer caches by the number of the output; the inputs are let go."""
        made, self._made, self._held = self._made, {}, []
        return made
