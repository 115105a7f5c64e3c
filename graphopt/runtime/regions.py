"""Regions at run time: plans cached by shape, instances lent to concurrent runs, onnxruntime where there is no plan."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir import Model
from .emission import Memory
from .layouts import Shape
from .partition import Segment
from .plan import Instance, Plan
from .segments import StockSegment
from .workers import Team

Array = npt.NDArray[Any]

_PLANS = 8  # shapes kept
_SPARE = 4  # instances kept for each plan and number of workers


class Region:
    """One region. Safe to run from several threads at once: each run has an arena of its own."""

    def __init__(self, model: Model, segment: Segment, team: Team, memory: Memory) -> None:
        self.segment, self.team, self.memory = segment, team, memory
        self._model = model
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[Shape, ...], Plan | None] = OrderedDict()
        self._spare: dict[tuple[tuple[Shape, ...], int], list[Instance]] = {}
        self._stock: StockSegment | None = None
        self.refusals: dict[tuple[Shape, ...], str] = {}

    def after_fork(self) -> None:
        """Locks may have been held by threads that the child does not have."""
        self._lock = threading.Lock()
        if self._stock is not None:
            self._stock.after_fork()

    def plan(self, shapes: tuple[Shape, ...]) -> Plan | None:
        """The plan for these input shapes; None where kernels do not take them (`refusals` says why)."""
        with self._lock:
            if shapes in self._plans:
                self._plans.move_to_end(shapes)
                return self._plans[shapes]
            try:
                made: Plan | None = Plan(
                    self.segment.operations, self.segment.inputs, self.segment.outputs, shapes, self.memory
                )
            except ValueError as reason:
                made = None
                self.refusals[shapes] = str(reason)
            self._plans[shapes] = made
            while len(self._plans) > _PLANS:
                gone, _ = self._plans.popitem(last=False)
                self.refusals.pop(gone, None)
                for key in [key for key in self._spare if key[0] == gone]:
                    del self._spare[key]
            return made

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The region's outputs for arrays in the order of its inputs."""
        shapes = tuple(array.shape for array in arrays)
        plan = self.plan(shapes)
        if plan is None:
            return self.stock().run(arrays)
        if plan.is_empty:
            return [np.empty(plan.shapes[value], plan.dtypes[value]) for value in plan.outputs]
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

    def stock(self) -> StockSegment:
        """The same nodes in onnxruntime, made when first needed."""
        with self._lock:
            if self._stock is None:
                self._stock = StockSegment(self._model, self.segment, self.team.size)
            return self._stock

    def _borrow(self, plan: Plan, shapes: tuple[Shape, ...], workers: int) -> Instance:
        with self._lock:
            spare = self._spare.get((shapes, workers))
            if spare:
                return spare.pop()
        return Instance(plan, workers)

    def _return(self, instance: Instance, shapes: tuple[Shape, ...]) -> None:
        with self._lock:
            if self._plans.get(shapes) is not instance.plan:
                return
            spare = self._spare.setdefault((shapes, instance.program.workers), [])
            if len(spare) < _SPARE:
                spare.append(instance)
