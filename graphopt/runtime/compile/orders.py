"""The axis order that an operation prefers for its inputs: the functions of the legality table's column `order`.

Each takes the operation, the shapes by value, the input, and the order that the readers of the operation's result
prefer; None means any order.
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
"""The most axes of a tensor whose orders are all tried: 3! of them, as the innermost stays."""


def wants_channels_last(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """Channels last, for images."""
    return channels_last(len(shapes[value]))


def wants_natural(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """ONNX's order: rows over the last axis."""
    return natural(len(shapes[value]))


def wants_inside(
    operation: ChannelQuantize, shapes: Shapes, value: Value, wanted: Order | None
) -> Order | None:  # fmt: skip
    """The channel axis innermost."""
    return axis_inside(len(shapes[value]), operation.axis)


def takes_any(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """No preference: Expand, means, and products of activations, which take contiguous rows or columns."""
    return None


def wants_as_result(operation: Operation, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """The order preferred for the result: elementwise operations keep their input's."""
    return wanted if len(shapes[operation.output]) == len(shapes[value]) else None


def wants_transposed(operation: Transpose, shapes: Shapes, value: Value, wanted: Order | None) -> Order | None:
    """The order preferred for the result, in the axes of the input."""
    if wanted is None:
        return None
    permutation = permutation_of(operation, len(shapes[value]))
    return tuple(permutation[axis] for axis in wanted)


def wants_moved(
    operation: ChannelTable | Reshape, shapes: Shapes, value: Value, wanted: Order | None
) -> Order | None:  # fmt: skip
    """The input order, last axis innermost, that the moves turn into the preferred one without moving an element."""
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
