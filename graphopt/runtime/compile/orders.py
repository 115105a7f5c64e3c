"""The order of axes that an operation would like its inputs in; a wish for each operation's row in the legality table.

A wish is a function of the operation, the shapes by value, the input it reads, and the order in which the readers of
the operation's own result want that; None says that any order will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

from ...ir import Value
from ..lower.operations import ChannelQuantize, ChannelTable, Reshape, Transpose
from ..lower.traits import Operation, Shape
from .layouts import Order, axis_inside, channels_last, natural, reshaped, same_place, transposed
from .shapes import move_shape, permutation_of

Shapes = Mapping[Value, Shape]

_MOST_AXES = 4
"""Axes of the largest tensor whose orders are all tried: 3! of them, as the innermost stays."""


def wants_channels_last(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """Images."""
    return channels_last(len(shapes[value]))


def wants_natural(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """Rows over the last axis."""
    return natural(len(shapes[value]))


def wants_inside(
    operation: ChannelQuantize, shapes: Shapes, value: Value, wanted: Order | None
) -> Order | None:  # fmt: skip
    """The channels of a place side by side."""
    return axis_inside(len(shapes[value]), operation.axis)


def takes_any(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """Products of activations: any order with rows or columns side by side will do."""
    return None


def wants_as_result(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """Elementwise operations: the result lies as the input does."""
    return wanted if len(shapes[operation.output]) == len(shapes[value]) else None


def wants_transposed(operation: Transpose, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """The order that is wanted of the result, before the axes are renamed."""
    if wanted is None:
        return None
    permutation = permutation_of(operation, len(shapes[value]))
    return tuple(permutation[axis] for axis in wanted)


def wants_moved(
    operation: ChannelTable | Reshape, shapes: Shapes, value: Value, wanted: Order | None
) -> Order | None:  # fmt: skip
    """The order from which the moves end in the one wanted and no element moves; the last axis stays innermost."""
    shape = shapes[value]
    if isinstance(operation, ChannelTable) and not operation.moves:
        return wanted
    if wanted is None or len(shape) > _MOST_AXES or len(shape) < 2:
        return None
    moves = (operation,) if isinstance(operation, Reshape) else operation.moves
    for outer in permutations(range(len(shape) - 1)):
        candidate: Order | None = (*outer, len(shape) - 1)
        order, at = candidate, shape
        for move in moves:
            target = move_shape(move, (at, *(shapes[other] for other in move.inputs[1:])))
            if order is None:
                break
            if isinstance(move, Transpose):
                order = transposed(order, permutation_of(move, len(at)))
            else:
                order = reshaped(at, order, target)
            at = target
        if order is not None and same_place(at, order, wanted):
            return candidate
    return None
