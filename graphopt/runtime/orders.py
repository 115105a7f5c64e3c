"""Which order of axes each value is best made in, told by its readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir import Value
from .layouts import Order, Shape, channels_last, natural
from .operations import AveragePool, Conv, DynamicMatMul, MatMul, MaxPool, Operation, Resize, Transpose
from .shapes import permutation_of


def wanted_orders(operations: Sequence[Operation], shapes: Mapping[Value, Shape]) -> dict[Value, Order]:
    """The order each value is best made in, from its readers; values without a wish are left out."""
    wanted: dict[Value, Order] = {}
    for operation in reversed(operations):
        for value in operation.inputs:
            rank = len(shapes[value])
            if isinstance(operation, (Conv, MaxPool, AveragePool, Resize)):
                wanted.setdefault(value, channels_last(rank))
            elif isinstance(operation, (MatMul, DynamicMatMul)):
                wanted.setdefault(value, natural(rank))
            elif isinstance(operation, Transpose) and operation.output in wanted:
                permutation = permutation_of(operation, rank)
                wanted.setdefault(value, tuple(permutation[axis] for axis in wanted[operation.output]))
            elif operation.output in wanted and len(shapes[operation.output]) == rank:
                wanted.setdefault(value, wanted[operation.output])
    return wanted
