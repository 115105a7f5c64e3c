"""The region compiler: from a region at known shapes to one executable over one arena, with packed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import Array, Value
from ...kernels import SLACK, Library
from ...kernels.tensors.quantization import Quantization
from ..lower.operands import constant_array
from ..lower.operations import Concat, Conv, MatMul
from ..lower.traits import Operation, Shape
from .arena import Interval, assign
from .emitter import RoutineEmitter
from .executable import Border, Executable, Memory, ProgramStep
from .fusion import fuse
from .growth import growing_axes
from .layouts import natural
from .legality import emit, output_shape, wanted_orders
from .shared_weights import share_weights
from .tensor import Tensor


def compile_region(
    operations: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value], shapes: Sequence[Shape],
    memory: Memory = "fast",
) -> Executable:  # fmt: skip
    """The executable that computes `outputs` from `inputs` of these shapes, after fusing the operations.

    Declined where a shape does not fit or no kernel takes it.
    """
    known = infer_shapes(operations, inputs, shapes)
    dtypes: dict[Value, np.dtype[Any]] = {}
    for operation in operations:
        dtypes[operation.output] = _dtype(operation, dtypes)
    emitter = _emitted(fuse(operations, known, outputs), inputs, outputs, known, memory)
    sources, results = [emitter.tensors.get(v) for v in inputs], [emitter.tensors[v] for v in outputs]
    offsets, arena_bytes = _assign_buffers(emitter, [tensor for tensor in sources if tensor is not None], results)
    steps = tuple(
        ProgramStep(step, bound.buffers, _title(bound.operation, emitter.tensors))
        for bound in emitter.bound
        for step in bound.routine.steps
    )
    share_weights([row.step for row in steps])
    borders = tuple(None if tensor is None else _border(tensor, np.dtype(np.uint8)) for tensor in sources)
    return Executable(
        Library(function for row in steps for function in row.step.functions), steps, tuple(offsets),
        arena_bytes, emitter.constants, borders, tuple(_border(t, dtypes[v]) for t, v in zip(results, outputs)),
        sum(bound.routine.packed_bytes for bound in emitter.bound), emitter.growing.growth(inputs, outputs),
    )  # fmt: skip


def infer_shapes(
    operations: Sequence[Operation], inputs: Sequence[Value], shapes: Sequence[Shape]
) -> dict[Value, Shape]:  # fmt: skip
    """The shapes of all values of a region, given its inputs' shapes. Declined where a shape does not fit."""
    known = dict(zip(inputs, shapes, strict=True))
    for operation in operations:
        for value in operation.inputs:
            if value not in known:
                array = constant_array(value)
                if array is None:
                    raise Declined(f"{value.name or 'a value'} is not available to the region", value)
                known[value] = array.shape
        known[operation.output] = output_shape(operation, tuple([known[v] for v in operation.inputs]))
    return known


def _emitted(
    operations: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value], shapes: Mapping[Value, Shape],
    memory: Memory,
) -> RoutineEmitter:  # fmt: skip
    """The emitter with the routines of all operations; with none where every output is empty."""
    float_results = [o.output for o in operations if o.writes_float and o.output in outputs]
    emitter = RoutineEmitter(
        shapes, memory, wanted=wanted_orders(operations, shapes, float_results),
        flattened=_flattened(operations, outputs),
    )  # fmt: skip
    floats = {v for operation in operations for v in operation.data_inputs if operation.reads_float_from(v)}
    read = {v for operation in operations for v in operation.data_inputs}
    axes = {inputs[index]: axis for index, axis in growing_axes(operations, inputs)}
    for value in inputs:
        if value not in read:
            continue
        shape = shapes[value]
        if value in axes:
            emitter.tensors[value] = emitter.growing.source(value, shape, axes[value])
            continue
        order = natural(len(shape))
        if value not in floats:
            order = emitter.wanted.get(value, order)
        emitter.tensors[value] = emitter.new(shape, order, 4 if value in floats else 1)
    if all(prod(shapes[value]) == 0 for value in outputs):
        for value in outputs:
            emitter.tensors[value] = emitter.new(shapes[value], natural(len(shapes[value])))
        return emitter
    for operation in operations:
        emit(emitter, operation)
    return emitter


def _border(tensor: Tensor, dtype: np.dtype[Any]) -> Border:
    """The border of a tensor: codes of `dtype`, or float32 where its elements have 4 bytes."""
    return Border(tensor.buffer, tensor.shape, tensor.order, np.dtype(np.float32) if tensor.itemsize == 4 else dtype)


def _title(operation: Operation, tensors: Mapping[Value, Tensor]) -> str:
    shape = "×".join(str(size) for size in tensors[operation.output].shape)
    if isinstance(operation, Conv):
        kernel = "×".join(str(size) for size in operation.weights.shape[2:])
        stride = "" if set(operation.strides) == {1} else f" /{operation.strides[0]}"
        groups = "" if operation.groups == 1 else f" g{operation.groups}"
        return f"Conv {kernel}{stride}{groups} {tensors[operation.inputs[0]].shape[1]} → {shape}"
    return f"{type(operation).__name__} {shape}"


def _dtype(operation: Operation, known: Mapping[Value, np.dtype[Any]]) -> np.dtype[Any]:
    """The numpy type of an operation's result."""
    if operation.writes_float:
        return np.dtype(np.float32)
    table: Array | None = getattr(operation, "table", None)
    if table is not None:
        return table.dtype
    target: Quantization | None = getattr(operation, "y", None)
    if target is not None:
        return np.dtype(target.dtype)
    if isinstance(operation, Concat):
        for value, own in zip(operation.inputs, operation.tables):
            if own is not None or value in known:
                return own.dtype if own is not None else known[value]
    return known.get(operation.inputs[0], np.dtype(np.uint8))


def _flattened(operations: Sequence[Operation], outputs: Sequence[Value]) -> set[Value]:
    """Values that only products with constant weights read, whose rows can then be permuted to any order."""
    readers: dict[Value, list[Operation]] = {}
    for operation in operations:
        for value in operation.inputs:
            readers.setdefault(value, []).append(operation)
    return {
        value
        for value, reading in readers.items()
        if value not in outputs and all(isinstance(o, MatMul) and o.inputs[0] is value for o in reading)
    }


def _assign_buffers(
    emitter: RoutineEmitter, sources: Sequence[Tensor], results: Sequence[Tensor]
) -> tuple[list[int], int]:
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
