"""Execution contexts: the memory of one run of an executable, bound to its input and output arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir import Array
from ...kernels import Program, aligned_empty
from ..compile.executable import Border, Executable, Use
from ..compile.layouts import natural, physical_shape, same_place
from .growing import CacheMemory, Grown, KeptCache


class ExecutionContext:
    """One arena and one bound program of an executable: the memory of a single run.

    float32 tensors at the region's border are read and written in the caller's arrays: their kernels stay in bounds.
    Codes are copied, because tiles read a little beyond their end.
    """

    def __init__(
        self, executable: Executable, workers: int, caches: CacheMemory | None = None, *, profile: bool = False
    ) -> None:
        self.executable = executable
        self.arena = aligned_empty(executable.arena_bytes)
        self.scratch = aligned_empty(max((s.step.scratch for s in executable.steps), default=0) * workers)
        base = int(self.arena.ctypes.data)
        for buffer, array in executable.constants.items():
            begin = executable.offsets[buffer]
            self.arena[begin : begin + array.nbytes] = array.reshape(-1).view(np.uint8)
        scratch = int(self.scratch.ctypes.data)
        bound = []
        for row in executable.steps:
            addresses = {name: base + executable.offsets[buffer] for name, buffer in row.buffers.items()}
            addresses["scratch"] = scratch
            bound.append((row.step, addresses))
        self.program = Program(bound, workers=workers, profile=profile)
        uses = executable.uses()
        self._grown = Grown(executable, uses, self.program, caches or CacheMemory()) if executable.growth else None
        outside = ((), ()) if self._grown is None else (self._grown.sources, self._grown.results)
        self._sources = [
            None if border is None or index in outside[0] else _Place(self, border, uses)
            for index, border in enumerate(executable.sources)
        ]
        self._results = [
            None if index in outside[1] else _Place(self, border, uses)
            for index, border in enumerate(executable.results)
        ]
        used = [*filter(None, self._sources), *filter(None, self._results)]
        homes = Counter(place.home for place in used)
        for place in used:
            if homes[place.home] > 1:  # two views of one place cannot go two ways
                place.places = place.offsets = np.empty(0, np.intp)

    def load(self, arrays: Sequence[Array | KeptCache]) -> None:
        """Take the inputs, and make room for the outputs."""
        for place, array in zip(self._sources, arrays, strict=True):
            if place is not None:
                assert not isinstance(array, KeptCache)  # which the executable's growth has
                place.give(array)
        for place in filter(None, self._results):
            place.allocate()
        if self._grown is not None:
            self._grown.load(arrays)

    def results(self) -> list[Any]:
        """The outputs in ONNX's layout, the caller's own, and kept caches; the inputs are let go."""
        for place in filter(None, self._sources):
            place.array = None
        grown = {} if self._grown is None else self._grown.take()
        return [grown[index] if place is None else place.take() for index, place in enumerate(self._results)]


class _Place:
    """An input or output of a region: its address in the arena, and the array bound instead in the present run."""

    def __init__(self, context: ExecutionContext, border: Border, uses: Mapping[int, Sequence[Use]]) -> None:
        executable = context.executable
        self.program, self.shape, self.dtype = context.program, border.shape, border.dtype
        begin = executable.offsets[border.buffer]
        raw = context.arena[begin : begin + border.nbytes].view(self.dtype)
        physical = raw.reshape(physical_shape(border.shape, border.order))
        self.view = physical.transpose([border.order.index(axis) for axis in range(len(border.order))])
        self.home = int(context.arena.ctypes.data) + begin
        self.places = self.offsets = np.empty(0, np.intp)
        self.array: Array | None = None
        in_order = same_place(border.shape, border.order, natural(len(border.shape)))
        if self.dtype == np.float32 and in_order:
            found = uses.get(border.buffer, ())
            self.places = np.array([self.program.place(step, argument) for step, argument, _ in found], np.intp)
            self.offsets = np.array([offset for _, _, offset in found], np.int64)

    def _point(self, address: int) -> None:
        if self.places.size:
            self.program.rebind(self.places, address + self.offsets)

    def give(self, array: Array) -> None:
        """Let the program read this array where it lies, or else a copy."""
        if self.places.size and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
            self.array = array  # kept alive during the run
            self._point(int(array.ctypes.data))
            return
        self._point(self.home)
        np.copyto(self.view, array.view(self.view.dtype) if array.dtype.itemsize == 1 else array)

    def allocate(self) -> None:
        """Let the program write to a new array where it can; else `take` copies."""
        if self.places.size:
            self.array = np.empty(self.shape, self.dtype)
            self._point(int(self.array.ctypes.data))

    def take(self) -> Array:
        """The output, to which nothing else refers."""
        result, self.array = self.array, None
        if result is None:
            result = np.empty(self.shape, self.dtype)
            np.copyto(result, self.view)
        return result
