"""Plans: a region at known shapes becomes the blueprint of one compiled program over one arena, its weights packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ...ir import Array, Value
from ...kernels import SLACK, Library
from ...kernels.quantization import Quantization
from ..lower.operands import constant_array
from ..lower.operations import Concat, Conv, MatMul, Operation, data_inputs, is_float, reads_float
from .arena import Interval, assign
from .emitter import Memory, RoutineEmitter, Tensor
from .executable import Border, Executable, ProgramStep
from .fusion import fuse
from .layouts import Shape, natural
from .orders import wanted_orders
from .shapes import output_shape


class Plan:
    """How a region is done for one set of input shapes: fused `operations`, and the `blueprint` of their program."""

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
        emitter = RoutineEmitter(known, memory, flattened=_flattened(self.operations, outputs))
        self._emit(emitter)
        sources, results = [emitter.tensors.get(v) for v in inputs], [emitter.tensors[v] for v in outputs]
        offsets, arena_bytes = _place(emitter, [tensor for tensor in sources if tensor is not None], results)
        steps = tuple(
            ProgramStep(step, bound.buffers, _title(bound.operation, emitter.tensors))
            for bound in emitter.bound
            for step in bound.routine.steps
        )
        self.blueprint = Executable(
            Library(function for planned in steps for function in planned.step.functions),
            steps,
            tuple(offsets),
            arena_bytes,
            emitter.constants,
            tuple(None if tensor is None else _border(tensor, np.dtype(np.uint8)) for tensor in sources),
            tuple(_border(tensor, self.dtypes[v]) for tensor, v in zip(results, outputs)),
            sum(b.routine.packed_bytes for b in emitter.bound),
        )

    def _emit(self, emitter: RoutineEmitter) -> None:
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


def _border(tensor: Tensor, dtype: np.dtype[Any]) -> Border:
    """Codes that enter are bytes, whichever their sign; float32 is told by its size."""
    return Border(tensor.buffer, tensor.shape, tensor.order, np.dtype(np.float32) if tensor.itemsize == 4 else dtype)


def _title(operation: Operation | None, tensors: Mapping[Value, Tensor]) -> str:
    if operation is None:
        return ""
    shape = "×".join(str(size) for size in tensors[operation.output].shape)
    if isinstance(operation, Conv):
        kernel = "×".join(str(size) for size in operation.weights.shape[2:])
        stride = "" if set(operation.strides) == {1} else f" /{operation.strides[0]}"
        groups = "" if operation.groups == 1 else f" g{operation.groups}"
        return f"Conv {kernel}{stride}{groups} {tensors[operation.inputs[0]].shape[1]} → {shape}"
    return f"{type(operation).__name__} {shape}"


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


def _place(emitter: RoutineEmitter, sources: Sequence[Tensor], results: Sequence[Tensor]) -> tuple[list[int], int]:
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
