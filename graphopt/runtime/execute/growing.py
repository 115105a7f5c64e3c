"""Caches at run time: each run adds rows to memory that has room for more, so that what is there is not copied."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir import Array
from ...kernels import Program
from ..compile.executable import Executable, Use

_LEAST = 64
"""Rows that memory has room for at least: 64 steps of a first token. Beyond, it doubles, so that a row is copied but
twice on average (derived)."""

Floats = npt.NDArray[np.float32]


class CacheMemory:
    """Arrays [batch, heads, room, size] of which a run is handed the first rows, and the next one writes behind them.

    A cache grows in place where nothing was written behind it yet; two continuations of one cache are two memories.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._filled: dict[int, tuple[weakref.ref[Floats], int]] = {}

    def grown(self, past: Floats, count: int) -> Floats:
        """Memory for the rows of a cache and `count` more, as a view; it is the cache's own where that has room."""
        batch, heads, rows, size = past.shape
        base: Any = past.base
        with self._lock:
            memory, filled = self._filled.get(id(base), (None, 0))
            is_ours = memory is not None and memory() is base
            if memory is not None and is_ours:
                at_its_end = base.ctypes.data == past.ctypes.data and filled == rows
                if at_its_end and base.shape[:2] == (batch, heads) and rows + count <= base.shape[2]:
                    self._filled[id(base)] = memory, rows + count
                    return self._first(base, rows + count)
            fresh = np.empty((batch, heads, max(_LEAST, 2 * (rows + count)), size), np.float32)
            number = id(fresh)
            self._filled[number] = weakref.ref(fresh, self._forget(number)), rows + count
            return self._first(fresh, rows + count)

    def _first(self, memory: Floats, rows: int) -> Floats:
        return memory[:, :, :rows]

    def _forget(self, number: int) -> Callable[[object], None]:
        """What happens when the memory with this number goes."""
        filled = self._filled

        def forget(gone: object) -> None:
            if number in filled and filled[number][0] is gone:  # the number may be that of newer memory
                del filled[number]

        return forget


def _with_even_heads(cache: Array) -> Floats:
    """The cache itself if its rows are dense and its heads evenly spaced, as kernels read them; else a copy."""
    itemsize, (_, heads, rows, size) = cache.itemsize, cache.shape
    strides = cache.strides
    even = strides[3] == itemsize and (rows < 2 or strides[2] == size * itemsize) and strides[1] >= 0
    if even and strides[0] == heads * strides[1] and cache.flags.aligned and cache.dtype == np.float32:
        return cache
    return np.ascontiguousarray(cache, np.float32)


class Grown:
    """The caches of one context: which arguments of its program follow them, and the memory of the present run."""

    def __init__(
        self, executable: Executable, uses: Mapping[int, Sequence[Use]], program: Program, memory: CacheMemory
    ) -> None:
        growth = executable.growth
        assert growth is not None
        self._program, self._memory, self._growth = program, memory, growth
        self._rows = uses.get(growth.rows, ())
        self._places: list[tuple[Sequence[Use], ...]] = []
        for cache in growth.caches:
            source = executable.sources[cache.source]
            assert source is not None
            buffers = source.buffer, cache.past_stride, executable.results[cache.result].buffer, cache.stride
            self._places.append(tuple(uses.get(buffer, ()) for buffer in buffers))
        masks = ((index, executable.sources[index]) for index in growth.masks)
        self._masks = [(index, uses.get(one.buffer, ())) for index, one in masks if one is not None]
        self.sources = frozenset((*(cache.source for cache in growth.caches), *growth.masks))
        self.results = frozenset(cache.result for cache in growth.caches)
        self._held: list[Floats] = []
        self._made: dict[int, Floats] = {}

    def _bind(self, places: Sequence[Use], word: int) -> None:
        for step, argument, _ in places:
            self._program.rebind(step, argument, word)

    def load(self, arrays: Sequence[Array]) -> None:
        """Let the program read these caches and masks, and write behind the caches."""
        growth = self._growth
        self._bind(self._rows, arrays[growth.caches[0].source].shape[2])
        for index, places in self._masks:
            mask = np.ascontiguousarray(arrays[index], np.float32)
            self._held.append(mask)
            self._bind(places, mask.ctypes.data)
        for cache, (source, past_stride, result, stride) in zip(growth.caches, self._places):
            past = _with_even_heads(arrays[cache.source])
            made = self._memory.grown(past, growth.count)
            self._held.append(past)
            self._made[cache.result] = made
            self._bind(source, past.ctypes.data)
            self._bind(past_stride, past.strides[1])
            self._bind(result, made.ctypes.data)
            self._bind(stride, made.strides[1])

    def take(self) -> dict[int, Floats]:
        """The longer caches by the number of the output; the inputs are let go."""
        made, self._made, self._held = self._made, {}, []
        return made
