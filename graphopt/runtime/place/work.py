"""The work of operations on kernels in numbers, from which a time is predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from ...ir import Value
from ..lower.decoders.operations import BlockedMatMul
from ..lower.operations import (
    ActivationMatMul,
    Conv,
    ConvTranspose,
    DynamicConv,
    DynamicProduct,
    FloatMatMul,
    LinearOperation,
    MatMul,
)
from ..lower.traits import Operation, Shape
from .partition import Segment

FEATURES = ("call", "input", "output", "unfolded", "mac")
"""The terms of a class's time: calls, elements read by products, elements written, elements of unfolded windows or
unpacked stored weights, and multiply-accumulates, for constant weights with channels padded to whole registers."""

Work = dict[str, list[float]]
"""The amounts of FEATURES, by class of operation."""

BORDER = "border"
"""The class of a region's call, which copies or binds inputs and outputs."""

_LANES, _DEPTH = 16, 4
"""Output channels and inputs of one instruction of the widest level: int32 lanes, and bytes summed in each
(`LEVELS`)."""


def region_work(segment: Segment, shapes: Mapping[Value, Shape]) -> Work:
    """The work of a region on kernels, its call included, at these shapes of its values."""
    work = border_work(segment, shapes)
    for operation in segment.operations:
        add_work(work, class_of(operation), operation_numbers(operation, shapes))
    return work


def border_work(segment: Segment, shapes: Mapping[Value, Shape]) -> Work:
    """The work of a segment's call, with its inputs and outputs."""
    read, written = (float(sum(prod(shapes[v]) for v in values)) for values in (segment.inputs, segment.outputs))
    return {BORDER: [1.0, read, written, 0.0, 0.0]}


def operation_numbers(operation: Operation, shapes: Mapping[Value, Shape]) -> tuple[float, ...]:
    """The amounts of FEATURES of an operation at these shapes of values."""
    return features(operation, [shapes[value] for value in operation.inputs], shapes[operation.output])


def add_work(work: Work, kind: str, numbers: Iterable[float]) -> None:
    """Add `numbers`, amounts of FEATURES, to class `kind`."""
    total = work.setdefault(kind, [0.0] * len(FEATURES))
    for index, number in enumerate(numbers):
        total[index] += number


def class_of(operation: Operation) -> str:
    """The class of operations of like cost; convolutions by window and groups, stored weights by their bits, float
    results apart."""
    name = type(operation).__name__
    if isinstance(operation, BlockedMatMul):
        return f"{name} {operation.bits}"
    if isinstance(operation, (Conv, DynamicConv)):
        if operation.groups > 1:
            return f"{name} depthwise" if operation.weights.shape[1] == 1 else f"{name} groups"
        return f"{name} pointwise" if prod(operation.weights.shape[2:]) == 1 else name
    return f"{name} float" if operation.writes_float and isinstance(operation, (MatMul, ActivationMatMul)) else name


def features(operation: Operation, inputs: Sequence[Shape], output: Shape) -> tuple[float, ...]:
    """The amounts of FEATURES of an operation, for its inputs' and output's shapes."""
    elements, read, unfolded, macs = float(prod(output)), 0.0, 0.0, 0.0
    if isinstance(operation, (LinearOperation, DynamicProduct)):
        groups = int(isinstance(operation, ConvTranspose))
        if isinstance(operation, (Conv, DynamicConv)):
            groups = operation.groups
        return 1.0, float(prod(inputs[0])), *filled_macs(operation.weights.shape, output, groups)
    if isinstance(operation, BlockedMatMul):
        return 1.0, float(prod(inputs[0])), elements, float(prod(operation.sizes)), elements * operation.sizes[0]
    if isinstance(operation, (ActivationMatMul, FloatMatMul)) and inputs[0]:
        read = float(prod(inputs[0]) + prod(inputs[1]))
        macs = elements * inputs[0][-1]
    return 1.0, read, elements, unfolded, macs


def filled_macs(weights: Shape, output: Shape, groups: int) -> tuple[float, float, float]:
    """Elements written, elements of unfolded windows, multiply-accumulates with sizes padded to whole registers.

    `weights` of a convolution in `groups`, [M, C / groups, window …], or with 0 groups of a product, [K, N].
    """
    elements, unfolded = float(prod(output)), 0.0
    if not groups:
        return elements, 0.0, elements / max(weights[1], 1) * _filled(weights[1], _LANES) * _filled(weights[0], _DEPTH)
    depth, pixels = prod(weights[1:]), elements / max(weights[0], 1)
    if weights[1:2] == (1,) and groups > 1:
        return elements, 0.0, elements * depth
    unfolded = pixels * groups * depth if prod(weights[2:]) > 1 else 0.0
    return elements, unfolded, pixels * groups * _filled(weights[0] // groups, _LANES) * _filled(depth, _DEPTH)


def _filled(size: int, step: int) -> int:
    return -(-size // step) * step
