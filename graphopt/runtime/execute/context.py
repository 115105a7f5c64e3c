"""Instances: the memory of a blueprint's single run, and the arrays that enter and leave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...ir import Array
from ...kernels import Program, aligned_empty
from ..compile.executable import Border, Executable
from ..compile.layouts import natural, physical_shape, same_place


class ExecutionContext:
    """One arena and one program of a blueprint: what a single run needs for itself.

    float32 tensors at the region's border are read and written where the caller has them: the kernels that touch them
    keep to their bounds. Codes are copied, because tiles read a little beyond.
    """

    def __init__(self, plan: Executable, workers: int, *, profile: bool = False) -> None:
        self.plan = plan
        self.arena = aligned_empty(plan.arena_bytes)
        self.scratch = aligned_empty(max((s.step.scratch for s in plan.steps), default=0) * workers)
        base = int(self.arena.ctypes.data)
        for buffer, array in plan.constants.items():
            begin = plan.offsets[buffer]
            self.arena[begin : begin + array.nbytes] = array.reshape(-1).view(np.uint8)
        scratch = int(self.scratch.ctypes.data)
        bound = []
        for planned in plan.steps:
            addresses = {name: base + plan.offsets[buffer] for name, buffer in planned.buffers.items()}
            addresses["scratch"] = scratch
            bound.append((planned.step, addresses))
        self.program = Program(bound, workers=workers, profile=profile)
        self._sources = [None if border is None else _Place(self, border) for border in plan.sources]
        self._results = [_Place(self, border) for border in plan.results]
        used = [*filter(None, self._sources), *self._results]
        homes = Counter(place.home for place in used)
        for place in used:
            if homes[place.home] > 1:  # two views of one place cannot go two ways
                place.uses = []

    def load(self, arrays: Sequence[Array]) -> None:
        """Take the inputs, and make room for the outputs."""
        for place, array in zip(self._sources, arrays, strict=True):
            if place is not None:
                place.give(array)
        for place in self._results:
            place.make()

    def results(self) -> list[Array]:
        """The outputs in ONNX's layout, the caller's own; the inputs are let go."""
        for place in filter(None, self._sources):
            place.array = None
        return [place.take() for place in self._results]


class _Place:
    """An input or output of a region: its place in the arena, and where it is instead in the present run."""

    def __init__(self, instance: ExecutionContext, border: Border) -> None:
        plan = instance.plan
        self.program, self.shape, self.dtype = instance.program, border.shape, border.dtype
        begin = plan.offsets[border.buffer]
        raw = instance.arena[begin : begin + border.nbytes].view(self.dtype)
        there = raw.reshape(physical_shape(border.shape, border.order))
        self.view = there.transpose([border.order.index(axis) for axis in range(len(border.order))])
        self.home = int(instance.arena.ctypes.data) + begin
        self.uses: list[tuple[int, int, int]] = []  # step, argument, bytes from the tensor's start
        self.array: Array | None = None
        in_order = same_place(border.shape, border.order, natural(len(border.shape)))
        if self.dtype == np.float32 and in_order:
            self.uses = list(plan.uses(border.buffer))

    def _point(self, address: int) -> None:
        for step, argument, offset in self.uses:
            self.program.rebind(step, argument, address + offset)

    def give(self, array: Array) -> None:
        """Let the program read this array, or a copy."""
        if self.uses and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
            self.array = array  # kept alive during the run
            self._point(int(array.ctypes.data))
            return
        self._point(self.home)
        np.copyto(self.view, array.view(self.view.dtype) if array.dtype.itemsize == 1 else array)

    def make(self) -> None:
        """Let the program write a new array."""
        if self.uses:
            self.array = np.empty(self.shape, self.dtype)
            self._point(int(self.array.ctypes.data))

    def take(self) -> Array:
        """The result, which nothing else refers to."""
        made, self.array = self.array, None
        if made is None:
            made = np.empty(self.shape, self.dtype)
            np.copyto(made, self.view)
        return made
