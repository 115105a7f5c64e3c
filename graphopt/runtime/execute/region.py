"""Regions at run time: an executable for each set of input shapes, a context for each run, onnxruntime as fall-back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import Array
from ..cache.growing_plans import GrowingPlans, Key
from ..cache.plan_cache import PlanCache
from ..compile.executable import Executable, Memory, NoExecutable, hidden_addresses
from ..lower.decoders.operations import with_coded_caches, with_last_row
from ..lower.traits import Shape
from ..place.extract import extract
from ..place.lowered_model import LoweredModel
from ..place.partition import Segment
from .context import ExecutionContext
from .growing import CacheMemory, KeptCache
from .ort_segment import OrtSegment
from .workers import Team

Shapes = tuple[Shape, ...]

_EXECUTABLES = 8
"""The most executables, one a set of input shapes, that a region keeps in memory; least recently used go first."""

_IDLE_CONTEXTS = 4
"""Idle contexts kept for each executable and number of workers: so many concurrent runs allocate nothing."""


class Region:
    """One region: segment `index` of a lowered model. Several threads may run it at once, each in its own arena."""

    def __init__(
        self, lowered: LoweredModel, index: int, team: Team, memory: Memory, cache: PlanCache | None,
        growing: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        """`growing`: inputs that are longer in each run, and their axes."""
        self.index, self.team, self.memory = index, team, memory
        self._lowered, self._cache = lowered, cache
        self._plans = GrowingPlans(cache, index) if growing and cache is not None else None
        self._growing, self._caches = growing, CacheMemory()
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Key, Executable | NoExecutable] = OrderedDict()
        self._idle: dict[tuple[Key, int], list[ExecutionContext]] = {}
        self._ort: OrtSegment | None = None

    @property
    def segment(self) -> Segment:
        """The operations, inputs and outputs of the region."""
        return self._lowered.segments[self.index]

    @property
    def refusals(self) -> list[str]:
        """Why kernels do not take some of the recent shapes."""
        with self._lock:
            return [one.reason for one in self._compiled.values() if isinstance(one, NoExecutable)]

    def after_fork(self) -> None:
        """Renew the locks, which threads that the child does not have may have held."""
        self._lock = threading.Lock()
        self._caches = CacheMemory()
        if self._ort is not None:
            self._ort.after_fork()

    def prepare(self, shapes: Shapes) -> None:
        """Compile and allocate now for these shapes, so that the first run is like the others."""
        executable = self.executable(shapes)
        if executable is not None and not executable.is_empty:
            self._put_back(ExecutionContext(executable, self.team.size, self._caches), self._key(shapes))

    def _key(self, shapes: Shapes, last: int | None = None) -> Key:
        """What an executable is for."""
        if not self._growing:
            return shapes, last
        sizes = list(shapes)
        for index, axis in self._growing:
            shape = shapes[index]
            sizes[index] = (*shape[:axis], 0, *shape[axis:][1:])
        return tuple(sizes), last

    def executable(self, shapes: Shapes, coded: bool = False, last: int | None = None) -> Executable | None:
        """The executable for these input shapes; None where kernels do not take them (`refusals` says why).

        `coded`: caches are rows of codes, which have a length of their own: shapes alone tell an executable for them
        from others. `last`: the output of which the last row alone is computed where that spares a product's rows.
        """
        return self._executable(shapes, self._key(shapes, last), lambda: coded)

    def _executable(self, shapes: Shapes, wanted: Key, coded: Callable[[], bool]) -> Executable | None:
        with self._lock:
            compiled = self._compiled.get(wanted)
            if compiled is None:
                compiled = self._compiled[wanted] = self._load_or_compile(shapes, wanted, coded())
                while len(self._compiled) > _EXECUTABLES:
                    oldest, _ = self._compiled.popitem(last=False)
                    for key in [key for key in self._idle if key[0] == oldest]:
                        del self._idle[key]
            else:
                self._compiled.move_to_end(wanted)
        if isinstance(compiled, NoExecutable) or (compiled.growth is not None and not compiled.growth.fits(shapes)):
            return None
        return compiled

    def _load_or_compile(self, shapes: Shapes, wanted: Key, coded: bool) -> Executable | NoExecutable:
        if self._plans is not None:
            return self._load_or_compile_growing(shapes, wanted, coded, self._plans)
        name = (self.index, *wanted)
        stored: Executable | NoExecutable | None = None if self._cache is None else self._cache.load(name)
        if stored is not None:
            return stored
        compiled = self._compile(shapes, coded, wanted[1])
        if self._cache is not None and (isinstance(compiled, NoExecutable) or not hidden_addresses(compiled)):
            self._cache.save(name, compiled)
        return compiled

    def _load_or_compile_growing(
        self, shapes: Shapes, wanted: Key, coded: bool, plans: GrowingPlans
    ) -> Executable | NoExecutable:  # fmt: skip
        stored = plans.find(wanted)
        if stored is not None:
            return stored
        plans.lend_weights(self.segment.operations)
        compiled = self._compile(shapes, coded, wanted[1])
        plans.keep(wanted, compiled, self.segment.operations)
        return compiled

    def _compile(self, shapes: Shapes, coded: bool, last: int | None) -> Executable | NoExecutable:
        from ..compile.region_compiler import compile_region  # here, as a session all from the disk compiles nothing

        segment = self.segment
        operations = segment.operations if last is None else with_last_row(segment.operations, segment.outputs[last])
        operations = with_coded_caches(operations) if coded else operations
        try:
            return compile_region(operations, segment.inputs, segment.outputs, shapes, self.memory)
        except Declined as declined:
            return NoExecutable(declined.reason)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The region's outputs for arrays in the order of its inputs, by onnxruntime where kernels refuse them."""
        made = self.on_kernels(arrays)
        return self.in_onnxruntime().run(arrays) if made is None else made

    def refusal(self, arrays: Sequence[Array | KeptCache], last: int | None = None) -> str:
        """Why kernels do not take these arrays."""
        with self._lock:
            compiled = self._compiled.get(self._key(tuple([array.shape for array in arrays]), last))
        return compiled.reason if isinstance(compiled, NoExecutable) else "caches and masks of these lengths together"

    def on_kernels(self, arrays: Sequence[Array | KeptCache], last: int | None = None) -> list[Any] | None:
        """The region's outputs for arrays in the order of its inputs; None where kernels do not take their shapes.

        Kept caches are outputs, too, as they are; of the output `last` the last row may be all that is computed.
        """
        shapes = tuple([array.shape for array in arrays])
        key = self._key(shapes, last)
        executable = self._executable(
            shapes, key, lambda: any(arrays[index].dtype == np.uint8 for index, _ in self._growing)
        )
        if executable is None:
            return None
        if executable.is_empty:
            return [np.empty(border.shape, border.dtype) for border in executable.results]
        whole = self.team.size > 1 and self.team.acquire()
        try:
            context = self._take(executable, key, self.team.size if whole else 1)
            context.load(arrays)
            if whole:
                self.team.run(context.program)
            else:
                context.program.run_worker(0)
        finally:
            if whole:
                self.team.release()
        results = context.results()
        self._put_back(context, key)
        return results

    def in_onnxruntime(self) -> OrtSegment:
        """The region's nodes in onnxruntime, opened when first needed."""
        with self._lock:
            if self._ort is None:
                model, segment = self._lowered.model, self.segment
                sizes = len(segment.inputs), len(segment.outputs)
                source = extract(model, segment, computed=self._lowered.computes_weights(segment))
                self._ort = OrtSegment(source, *sizes, self.team.size, model.folder)
            return self._ort

    def _take(self, executable: Executable, key: Key, workers: int) -> ExecutionContext:
        with self._lock:
            idle = self._idle.get((key, workers))
            if idle:
                return idle.pop()
        return ExecutionContext(executable, workers, self._caches)

    def _put_back(self, context: ExecutionContext, key: Key) -> None:
        with self._lock:
            if self._compiled.get(key) is not context.executable:
                return
            idle = self._idle.setdefault((key, context.program.workers), [])
            if len(idle) < _IDLE_CONTEXTS:
                idle.append(context)
