"""Emission of Slice, Expand and Pad as strided copies of rows of bytes. Functions as in `elementwise`."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ....errors import Declined
from ....kernels import Buffer, Routine, Step
from ....kernels.elementwise.codes import prepare_table
from ....kernels.layout.moves import copy_rows_step, fill_rows_step
from ...lower.floats.operations import Expand, Pad, Slice
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter
from ..shapes import cuts_of
from ..tensor import Tensor

_MOST_COPIES = 64
"""The most copy steps of one operation; derived: in small tensors the calls of more would cost more than the copies."""


def emit_slice(emitter: RoutineEmitter, operation: Slice, inputs: Inputs, shape: Shape) -> Tensor:
    """Slices one axis after the other, then maps the codes by the optional table."""
    x = inputs[0]
    shapes = tuple(emitter.shapes[value] for value in operation.inputs)
    for axis, begin, end, step in cuts_of(operation, shapes):
        x = _cut(emitter, x, axis, begin, -(-(end - begin) // step), step)
    if operation.table is not None:
        x = emitter.result(prepare_table(x.size, operation.table), x.shape, x.order, x=x)
    if not operation.dropped:
        return x
    axis = operation.cuts[0][0] % len(x.shape)
    return replace(x, shape=shape, order=tuple(a - (a > axis) for a in x.order if a != axis))


def _cut(emitter: RoutineEmitter, x: Tensor, axis: int, begin: int, count: int, step: int) -> Tensor:
    size, place = x.shape[axis], x.order.index(axis)
    if count == size:
        return x
    inner = prod(x.shape[a] for a in x.order[place + 1 :]) * x.itemsize  # bytes
    rows = prod(x.shape[a] for a in x.order[:place])
    y = emitter.new((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.order, x.itemsize)
    first = begin * inner
    steps: list[Step] = []
    if rows * count * inner == 0:
        pass
    elif step == 1 or count == 1:
        width = count * inner
        steps.append(
            copy_rows_step(rows, width, Buffer("x", first), Buffer("y"), x_stride=size * inner, y_stride=width)
        )
    elif size == count * step or rows == 1:
        steps.append(
            copy_rows_step(rows * count, inner, Buffer("x", first), Buffer("y"), x_stride=step * inner, y_stride=inner)
        )
    elif rows <= _MOST_COPIES:
        for row in range(rows):
            source, target = Buffer("x", first + row * size * inner), Buffer("y", row * count * inner)
            steps.append(copy_rows_step(count, inner, source, target, x_stride=step * inner, y_stride=inner))
    else:
        raise Declined(f"every {step}th of {size} elements in {rows} rows")
    if steps:
        emitter.add(Routine(tuple(steps)), x=x, y=y)
    return y


def emit_expand(emitter: RoutineEmitter, operation: Expand, inputs: Inputs, shape: Shape) -> Tensor:
    """Repeats rows along one axis after the other, innermost axis first."""
    missing = len(shape) - len(inputs[0].shape)
    order = (*range(missing), *(axis + missing for axis in inputs[0].order))
    x = replace(inputs[0], shape=(1,) * missing + inputs[0].shape, order=order)
    for axis in reversed(order):
        if x.shape[axis] != shape[axis]:
            x = repeated(emitter, x, axis, shape[axis])
    return x


def repeated(emitter: RoutineEmitter, x: Tensor, axis: int, times: int) -> Tensor:
    """The tensor repeated `times` along an axis of size 1."""
    place = x.order.index(axis)
    inner = prod(x.shape[a] for a in x.order[place + 1 :]) * x.itemsize  # bytes
    rows = prod(x.shape[a] for a in x.order[:place])
    y = emitter.new((*x.shape[:axis], times, *x.shape[axis + 1 :]), x.order, x.itemsize)
    steps: list[Step] = []
    if rows * inner * times == 0:
        return y
    if rows == 1:
        steps.append(copy_rows_step(times, inner, Buffer("x"), Buffer("y"), x_stride=0, y_stride=inner))
    elif times <= _MOST_COPIES:
        for copy in range(times):
            target = Buffer("y", copy * inner)
            steps.append(copy_rows_step(rows, inner, Buffer("x"), target, x_stride=inner, y_stride=times * inner))
    else:
        raise Declined(f"{rows} rows repeated {times} times each")
    emitter.add(Routine(tuple(steps)), x=x, y=y)
    return y


def emit_pad(emitter: RoutineEmitter, operation: Pad, inputs: Inputs, shape: Shape) -> Tensor:
    """Maps the codes by the optional table, then pads one axis after the other, innermost first."""
    x = inputs[0]
    if operation.table is not None:
        x = emitter.result(prepare_table(x.size, operation.table), x.shape, x.order, x=x)
    for axis in reversed(x.order):
        before, behind = operation.pads[axis]
        if before or behind:
            x = _surrounded(emitter, operation, x, axis)
    return x


def _surrounded(emitter: RoutineEmitter, operation: Pad, x: Tensor, axis: int) -> Tensor:
    before, behind = operation.pads[axis]
    size, place = x.shape[axis], x.order.index(axis)
    inner, rows = prod(x.shape[a] for a in x.order[place + 1 :]), prod(x.shape[a] for a in x.order[:place])
    width = (before + size + behind) * inner
    value = operation.value if operation.floats else int(operation.value) % 256  # a code's bits
    y = emitter.new((*x.shape[:axis], before + size + behind, *x.shape[axis + 1 :]), x.order, x.itemsize)
    steps: list[Step] = []
    for begin, count in ((0, before), (before + size, behind)):
        if count * inner * rows:
            target = Buffer("y", begin * inner * x.itemsize)
            steps.append(fill_rows_step(rows, count * inner, value, target, y_stride=width, itemsize=x.itemsize))
    if size * inner * rows:
        count, target = size * inner * x.itemsize, Buffer("y", before * inner * x.itemsize)
        stride = width * x.itemsize
        steps.append(copy_rows_step(rows, count, Buffer("x"), target, x_stride=count, y_stride=stride))
    if steps:
        emitter.add(Routine(tuple(steps)), x=x, y=y)
    return y
