"""Which order of axes each value is best made in, told by its readers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import permutations

from ...ir import Value
from ..lower.operations import (
    ActivationMatMul,
    AveragePool,
    ChannelTable,
    Conv,
    DynamicConv,
    DynamicMatMul,
    FloatMatMul,
    FloatPool,
    FloatSoftmax,
    LayerNorm,
    Lrn,
    MatMul,
    MaxPool,
    Operation,
    Reshape,
    Resize,
    Softmax,
    Transpose,
    data_inputs,
)
from .layouts import Order, Shape, channels_last, natural, reshaped, same_place, transposed
from .shapes import output_shape, permutation_of

_MOST_AXES = 4
_IMAGES = (Conv, DynamicConv, MaxPool, AveragePool, FloatPool, Resize, Lrn)


def wanted_orders(
    operations: Sequence[Operation], shapes: Mapping[Value, Shape], natural_results: Collection[Value] = ()
) -> dict[Value, Order]:
    """The order each value is best made in, from its readers; values without a wish are left out."""
    wanted: dict[Value, Order] = {value: natural(len(shapes[value])) for value in natural_results}
    for operation in reversed(operations):
        for value in data_inputs(operation):
            rank = len(shapes[value])
            if isinstance(operation, _IMAGES):
                wanted.setdefault(value, channels_last(rank))
            elif isinstance(operation, (MatMul, DynamicMatMul, LayerNorm, Softmax, FloatSoftmax)):
                wanted.setdefault(value, natural(rank))
            elif isinstance(operation, Transpose) and operation.output in wanted:
                permutation = permutation_of(operation, rank)
                wanted.setdefault(value, tuple(permutation[axis] for axis in wanted[operation.output]))
            elif isinstance(operation, (ChannelTable, Reshape)):
                order = _order_before(operation, shapes, wanted.get(operation.output))
                if order is not None:
                    wanted.setdefault(value, order)
            elif isinstance(operation, (ActivationMatMul, FloatMatMul)):
                continue  # any order with its rows or columns side by side will do
            elif operation.output in wanted and len(shapes[operation.output]) == rank:
                wanted.setdefault(value, wanted[operation.output])
    return wanted


def _order_before(
    operation: ChannelTable | Reshape, shapes: Mapping[Value, Shape], wanted: Order | None
) -> Order | None:
    """The order in which moves end in the one wanted without moving anything; the last axis stays innermost."""
    shape = shapes[operation.inputs[0]]
    if wanted is None or len(shape) > _MOST_AXES or len(shape) < 2:
        return None
    moves = (operation,) if isinstance(operation, Reshape) else operation.moves
    for outer in permutations(range(len(shape) - 1)):
        candidate: Order | None = (*outer, len(shape) - 1)
        order, at = candidate, shape
        for move in moves:
            target = output_shape(move, (at, *(shapes[value] for value in move.inputs[1:])))
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
