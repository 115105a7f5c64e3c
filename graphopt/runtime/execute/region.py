"""Regions at run time: plans cached by shape, instances lent to concurrent runs, onnxruntime where there is no plan."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ...ir import Array
from ..cache.plan_cache import PlanCache
from ..compile.emitter import Memory
from ..compile.executable import Executable, hidden_addresses
from ..compile.layouts import Shape
from ..compile.region_compiler import Plan
from ..place.lowered_model import LoweredModel
from ..place.partition import Segment
from .context import ExecutionContext
from .ort_segment import OrtSegment, extract
from .workers import Team

_PLANS = 8  # shapes kept
_SPARE = 4  # instances kept for each plan and number of workers


class Region:
    """One region: segment `index` of a lowered model. Safe to run from several threads: each run has its own arena."""

    def __init__(self, lowered: LoweredModel, index: int, team: Team, memory: Memory, store: PlanCache | None) -> None:
        self.index, self.team, self.memory = index, team, memory
        self._lowered, self._store = lowered, store
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[Shape, ...], Executable | None] = OrderedDict()
        self._spare: dict[tuple[tuple[Shape, ...], int], list[ExecutionContext]] = {}
        self._stock: OrtSegment | None = None
        self.refusals: dict[tuple[Shape, ...], str] = {}

    @property
    def segment(self) -> Segment:
        """What it computes."""
        return self._lowered.segments[self.index]

    def after_fork(self) -> None:
        """Locks may have been held by threads that the child does not have."""
        self._lock = threading.Lock()
        if self._stock is not None:
            self._stock.after_fork()

    def prepare(self, shapes: tuple[Shape, ...]) -> None:
        """Make now what the first run on these shapes needs."""
        plan = self.plan(shapes)
        if plan is not None and not plan.is_empty:
            self._return(ExecutionContext(plan, self.team.size), shapes)

    def plan(self, shapes: tuple[Shape, ...]) -> Executable | None:
        """The plan for these input shapes; None where kernels do not take them (`refusals` says why)."""
        with self._lock:
            if shapes in self._plans:
                self._plans.move_to_end(shapes)
                return self._plans[shapes]
            made = self._stored(shapes)
            if isinstance(made, str):
                self.refusals[shapes] = made
            self._plans[shapes] = made if isinstance(made, Executable) else None
            while len(self._plans) > _PLANS:
                gone, _ = self._plans.popitem(last=False)
                self.refusals.pop(gone, None)
                for key in [key for key in self._spare if key[0] == gone]:
                    del self._spare[key]
            return self._plans[shapes]

    def draft(self, shapes: tuple[Shape, ...]) -> Plan:
        """A plan with its operations, made anew. Raises ValueError where kernels do not take the shapes."""
        segment = self.segment
        return Plan(segment.operations, segment.inputs, segment.outputs, shapes, self.memory)

    def _stored(self, shapes: tuple[Shape, ...]) -> Executable | str:
        """The plan for these shapes from the disk, else made and kept there; or why there is none."""
        name = (self.index, shapes)
        found: Executable | str | None = None if self._store is None else self._store.load(name)
        if found is not None:
            return found
        try:
            made: Executable | str = self.draft(shapes).blueprint
        except ValueError as reason:
            made = str(reason)
        if self._store is not None and (isinstance(made, str) or not hidden_addresses(made)):
            self._store.save(name, made)
        return made

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The region's outputs for arrays in the order of its inputs."""
        shapes = tuple(array.shape for array in arrays)
        plan = self.plan(shapes)
        if plan is None:
            return self.stock().run(arrays)
        if plan.is_empty:
            return [np.empty(border.shape, border.dtype) for border in plan.results]
        whole = self.team.size > 1 and self.team.acquire()
        try:
            instance = self._borrow(plan, shapes, self.team.size if whole else 1)
            instance.load(arrays)
            if whole:
                self.team.run(instance.program)
            else:
                instance.program.run_worker(0)
        finally:
            if whole:
                self.team.release()
        results = instance.results()
        self._return(instance, shapes)
        return results

    def stock(self) -> OrtSegment:
        """The same nodes in onnxruntime, made when first needed."""
        with self._lock:
            if self._stock is None:
                model, segment = self._lowered.model, self.segment
                sizes = len(segment.inputs), len(segment.outputs)
                self._stock = OrtSegment(extract(model, segment), *sizes, self.team.size, model.folder)
            return self._stock

    def _borrow(self, plan: Executable, shapes: tuple[Shape, ...], workers: int) -> ExecutionContext:
        with self._lock:
            spare = self._spare.get((shapes, workers))
            if spare:
                return spare.pop()
        return ExecutionContext(plan, workers)

    def _return(self, instance: ExecutionContext, shapes: tuple[Shape, ...]) -> None:
        with self._lock:
            if self._plans.get(shapes) is not instance.plan:
                return
            spare = self._spare.setdefault((shapes, instance.program.workers), [])
            if len(spare) < _SPARE:
                spare.append(instance)
