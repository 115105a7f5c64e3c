"""Emission of operations that move elements: Transpose, Reshape, Concat, blocks, tables followed by moves.

Functions as in `elementwise`.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ....kernels import Buffer, Routine
from ....kernels.elementwise.codes import prepare_table
from ....kernels.elementwise.tables import prepare_channel_lines, prepare_channel_table
from ....kernels.layout.moves import copy_rows_step, map_rows_step
from ...lower import operations as op
from ...lower.floats.operations import Blocks
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter
from ..layouts import Order, natural, physical_shape, reshaped, transposed
from ..shapes import move_shape, permutation_of
from ..tensor import Tensor


def emit_transpose(emitter: RoutineEmitter, operation: op.Transpose, inputs: Inputs, shape: Shape) -> Tensor:
    """Changes only the order of axes, at no cost."""
    (x,) = inputs
    return replace(x, shape=shape, order=transposed(x.order, permutation_of(operation, len(shape))))


def emit_reshape(emitter: RoutineEmitter, operation: op.Reshape, inputs: Inputs, shape: Shape) -> Tensor:
    """Free where the order allows; else leaves columns to the product behind, swaps two axes, or moves all elements."""
    (x,) = inputs
    order = reshaped(x.shape, x.order, shape)
    if order is not None:
        return replace(x, shape=shape, order=order)
    rows_stay = len(shape) == 2 and shape[0] == x.shape[0] and x.order[0] == 0
    if rows_stay and operation.output in emitter.flattened:
        emitter.unflattened[operation.output] = x
        return replace(x, shape=shape, order=natural(2))
    for candidate in _neighbours_swapped(x.order):
        order = reshaped(x.shape, candidate, shape)
        if order is not None:
            return replace(emitter.ordered(x, candidate), shape=shape, order=order)
    moved = emitter.ordered(x, natural(len(x.shape)))
    return replace(moved, shape=shape, order=natural(len(shape)))


def _neighbours_swapped(order: Order) -> list[Order]:
    """Orders with two neighboring axes swapped, the first axis kept, innermost swaps first: cheap to reach."""
    orders = []
    for place in range(len(order) - 2, 0, -1):
        swapped = list(order)
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        orders.append(tuple(swapped))
    return orders


def emit_concat(emitter: RoutineEmitter, operation: op.Concat, inputs: Inputs, shape: Shape) -> Tensor:
    """Copies runs of each input, mapped by its optional table, into rows of the result."""
    axis = operation.axis % len(shape)
    order = inputs[0].order
    y = emitter.new(shape, order, inputs[0].itemsize)
    place = order.index(axis)
    inner = prod(shape[a] for a in order[place + 1 :]) * y.itemsize  # bytes
    rows = prod(shape[a] for a in order[:place])
    begin, width = 0, shape[axis] * inner
    for x, table in zip(inputs, operation.tables):
        x = emitter.ordered(x, order)
        count = x.shape[axis] * inner
        if count and rows:
            target = Buffer("y", begin)
            if table is None:
                step = copy_rows_step(rows, count, Buffer("x"), target, x_stride=count, y_stride=width)
            else:
                step = map_rows_step(rows, count, table, Buffer("x"), target, x_stride=count, y_stride=width)
            emitter.add(Routine((step,)), x=x, y=y)
        begin += count
    return y


def emit_blocks(emitter: RoutineEmitter, operation: Blocks, inputs: Inputs, shape: Shape) -> Tensor:
    """Splits and transposes axes at no cost, moves the elements once to the readers' order, and merges the axes."""
    (x,) = inputs
    parts, first = operation.split(x.shape), 0
    places: list[range] = []
    for part in parts:
        places.append(range(first, first + len(part)))
        first += len(part)
    permutation = operation.permutation
    split = replace(
        x, shape=tuple(size for part in parts for size in part), order=tuple(p for a in x.order for p in places[a])
    )
    turned = replace(
        split, shape=tuple(split.shape[a] for a in permutation), order=transposed(split.order, permutation)
    )
    merged = ((0,), (1, 2, 3), (4,), (5,)) if operation.kind == "space" else ((0,), (1,), (2, 3), (4, 5))
    order = emitter.wanted.get(operation.output, x.order)
    return replace(emitter.ordered(turned, tuple(p for a in order for p in merged[a])), shape=shape, order=order)


def emit_channel_table(emitter: RoutineEmitter, operation: op.ChannelTable, inputs: Inputs, shape: Shape) -> Tensor:
    """Applies the tables, or the lines where channels are innermost, then the moves."""
    (x,) = inputs
    if operation.tables is not None:
        place, sizes = x.order.index(operation.axis % len(x.shape)), physical_shape(x.shape, x.order)
        inner, codes, lines = prod(sizes[place + 1 :]), operation.tables.codes, operation.tables.lines
        if len(operation.tables) == 1:
            routine = prepare_table(x.size, codes)
        elif inner == 1 and lines is not None and operation.x is not None:
            limits = int(codes.min()), int(codes.max())
            routine = prepare_channel_lines(prod(sizes[:place]), lines, operation.x, operation.y, limits)
        else:
            routine = prepare_channel_table(prod(sizes[:place]), codes, inner)
        x = emitter.result(routine, x.shape, x.order, x=x)
    for move in operation.moves:
        target = move_shape(move, (x.shape, *(emitter.shapes[value] for value in move.inputs[1:])))
        if isinstance(move, op.Transpose):
            x = emit_transpose(emitter, move, (x,), target)
        else:
            x = emit_reshape(emitter, move, (x,), target)
    return x
