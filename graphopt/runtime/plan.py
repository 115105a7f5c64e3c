"""Plans: a region at known shapes as one compiled program over one arena, its weights packed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir import Value
from ..kernels import SLACK, Buffer, Program, Step, aligned_empty
from ..kernels.quantization import Quantization
from .arena import Interval, assign
from .emission import Emitter, Memory, Tensor
from .fusion import fuse
from .layouts import Shape, natural, physical_shape, same_place
from .operands import constant_array
from .operations import Concat, MatMul, Operation, data_inputs, is_float, reads_float
from .orders import wanted_orders
from .shapes import output_shape

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One row of the program and the operation it serves."""

    step: Step
    buffers: Mapping[str, int]
    operation: Operation | None


class Plan:
    """A region's program for one set of input shapes. Immutable; runs happen in instances with memory of their own."""

    def __init__(
        self, operations: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value],
        shapes: Sequence[Shape], memory: Memory = "fast",
    ) -> None:  # fmt: skip
        """`shapes` are those of `inputs`. Raises ValueError where a shape does not fit or has no kernel."""
        known = dict(zip(inputs, shapes, strict=True))
        self.dtypes: dict[Value, np.dtype[Any]] = {}
        for operation in operations:
            for value in operation.inputs:
                if value not in known:
                    known[value] = _constant_shape(value)
            known[operation.output] = output_shape(operation, tuple(known[v] for v in operation.inputs))
            self.dtypes[operation.output] = _dtype(operation, self.dtypes)
        self.shapes = known
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.is_empty = all(prod(known[value]) == 0 for value in outputs)
        self.operations = fuse(operations, known, outputs)
        emitter = Emitter(known, memory, flattened=_flattened(self.operations, outputs))
        self._emit(emitter)
        self.tensors = emitter.tensors
        self.constants = emitter.constants
        self.steps = [PlannedStep(step, b.buffers, b.operation) for b in emitter.bound for step in b.routine.steps]
        self.offsets, self.arena_bytes = _place(
            emitter, [emitter.tensors[v] for v in inputs if v in emitter.tensors], [emitter.tensors[v] for v in outputs]
        )
        self.packed_bytes = sum(b.routine.packed_bytes for b in emitter.bound)

    def _emit(self, emitter: Emitter) -> None:
        results = [o.output for o in self.operations if is_float(o) and o.output in self.outputs]
        emitter.wanted = wanted_orders(self.operations, self.shapes, results)
        floats = {v for operation in self.operations if reads_float(operation) for v in data_inputs(operation)}
        read = {v for operation in self.operations for v in data_inputs(operation)}
        for value in self.inputs:
            if value not in read:
                continue
            shape = self.shapes[value]
            order = natural(len(shape))
            if value not in floats:
                order = emitter.wanted.get(value, order)
            emitter.tensors[value] = emitter.new(shape, order, 4 if value in floats else 1)
        if self.is_empty:
            for value in self.outputs:
                emitter.tensors[value] = emitter.new(self.shapes[value], natural(len(self.shapes[value])))
            return
        for operation in self.operations:
            emitter.emit(operation)


def _constant_shape(value: Value) -> Shape:
    array = constant_array(value)
    if array is None:
        raise ValueError(f"{value.name or 'a value'} is not available to the region")
    return array.shape


def _dtype(operation: Operation, known: Mapping[Value, np.dtype[Any]]) -> np.dtype[Any]:
    """The numpy type of an operation's result."""
    if is_float(operation):
        return np.dtype(np.float32)
    table: Array | None = getattr(operation, "table", None)
    if table is not None:
        return table.dtype
    target: Quantization | None = getattr(operation, "y", None)
    if target is not None:
        return np.dtype(target.dtype)
    if isinstance(operation, Concat):
        for value, made in zip(operation.inputs, operation.tables):
            if made is not None or value in known:
                return np.dtype(made.dtype) if made is not None else known[value]
    return known.get(operation.inputs[0], np.dtype(np.uint8))


def _flattened(operations: Sequence[Operation], outputs: Sequence[Value]) -> set[Value]:
    """Values that only products with constant weights read, so that the weights' rows can follow any order."""
    readers: dict[Value, list[Operation]] = {}
    for operation in operations:
        for value in operation.inputs:
            readers.setdefault(value, []).append(operation)
    return {
        value
        for value, found in readers.items()
        if value not in outputs and all(isinstance(o, MatMul) and o.inputs[0] is value for o in found)
    }


def _place(emitter: Emitter, sources: Sequence[Tensor], results: Sequence[Tensor]) -> tuple[list[int], int]:
    end = len(emitter.bound)
    intervals = [Interval(size, end, -1) for size in emitter.sizes]
    for index, bound in enumerate(emitter.bound):
        for buffer in bound.buffers.values():
            intervals[buffer].first = min(intervals[buffer].first, index)
            intervals[buffer].last = max(intervals[buffer].last, index)
    for buffer in emitter.constants:
        intervals[buffer].first, intervals[buffer].last = -1, end
    for tensor in sources:
        intervals[tensor.buffer].first = -1
    for tensor in results:
        intervals[tensor.buffer].last = end
    for interval in intervals:
        interval.last = max(interval.last, interval.first)
    return assign(intervals, SLACK)


class Instance:
    """One arena and one program of a plan: what a single run needs for itself.

    float32 tensors at the region's border are read and written where the caller has them: the kernels that touch them
    keep to their bounds. Codes are copied, because tiles read a little beyond.
    """

    def __init__(self, plan: Plan, workers: int, *, profile: bool = False) -> None:
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
        self._sources = [
            _Border(self, value, np.dtype(np.uint8)) if value in plan.tensors else None for value in plan.inputs
        ]
        self._results = [_Border(self, value, plan.dtypes[value]) for value in plan.outputs]
        borders = [*filter(None, self._sources), *self._results]
        places = Counter(border.home for border in borders)
        for border in borders:
            if places[border.home] > 1:  # two views of one place cannot go two ways
                border.uses = []

    def load(self, arrays: Sequence[Array]) -> None:
        """Take the inputs, and make room for the outputs."""
        for border, array in zip(self._sources, arrays, strict=True):
            if border is not None:  # else the array's shape is all that the plan needed
                border.give(array)
        for border in self._results:
            border.make()

    def results(self) -> list[Array]:
        """The outputs in ONNX's layout, the caller's own; the inputs are let go."""
        for border in self._sources:
            if border is not None:
                border.array = None
        return [border.take() for border in self._results]


class _Border:
    """An input or output of a region: its place in the arena, and where it is instead in the present run."""

    def __init__(self, instance: Instance, value: Value, dtype: np.dtype[Any]) -> None:
        plan, tensor = instance.plan, instance.plan.tensors[value]
        self.program, self.shape = instance.program, plan.shapes[value]
        self.dtype = np.dtype(np.float32) if tensor.itemsize == 4 else dtype
        begin = plan.offsets[tensor.buffer]
        raw = instance.arena[begin : begin + tensor.size * tensor.itemsize].view(self.dtype)
        there = raw.reshape(physical_shape(tensor.shape, tensor.order))
        self.view = there.transpose([tensor.order.index(axis) for axis in range(len(tensor.order))])
        self.home = int(instance.arena.ctypes.data) + begin
        self.uses: list[tuple[int, int, int]] = []  # step, argument, bytes from the tensor's start
        self.array: Array | None = None
        in_order = same_place(tensor.shape, tensor.order, natural(len(tensor.shape)))
        if self.dtype == np.float32 and in_order:
            self.uses = list(_uses(plan, tensor.buffer))

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
            np.copyto(made, self.view.reshape(self.shape) if self.view.shape != self.shape else self.view)
        return made


def _uses(plan: Plan, buffer: int) -> Iterator[tuple[int, int, int]]:
    """Where the program has a buffer's address: step, argument, offset."""
    for index, planned in enumerate(plan.steps):
        for place, argument in enumerate(planned.step.arguments.values()):
            if isinstance(argument, Buffer) and planned.buffers.get(argument.name) == buffer:
                yield index, place, argument.offset
