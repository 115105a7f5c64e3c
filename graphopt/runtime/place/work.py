"""The work of operations in numbers, from which a time on kernels and one in onnxruntime are predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from ...ir import Value
from ..lower.operations import (
    ActivationMatMul,
    Conv,
    DynamicConv,
    DynamicMatMul,
    DynamicProduct,
    FloatMatMul,
    LinearOperation,
    MatMul,
)
from ..lower.traits import Operation, Shape
from .partition import Segment

FEATURES = ("call", "input", "output", "unfolded", "mac")
"""What the time of a class is a sum of: calls, elements that products read, elements written, elements that a window
is unfolded to, and multiply-accumulates, those of constant weights with the channels that fill a register up."""

Work = dict[str, list[float]]
"""By class of operation, how much there is of each of FEATURES."""

BORDER = "border"
"""The class of a region's call itself: its inputs and its outputs are copied or bound."""

_LANES, _DEPTH = 16, 4
"""Output channels and inputs that one instruction of the widest level takes at once: int32 lanes, and bytes that are
summed in each (`LEVELS`)."""

_PRODUCTS = frozenset((
    "Conv", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "com.microsoft::QGemm",
    "com.microsoft::DynamicQuantizeMatMul", "com.microsoft::MatMulIntegerToFloat",
))  # fmt: skip


def region_work(segment: Segment, shapes: Mapping[Value, Shape]) -> tuple[Work, Work]:
    """The work of a region on kernels, and that of its nodes in onnxruntime, at these shapes of its values."""
    border = [
        1.0, float(sum(prod(shapes[v]) for v in segment.inputs)), float(sum(prod(shapes[v]) for v in segment.outputs)),
        0.0, 0.0,
    ]  # fmt: skip
    kernels: Work = {BORDER: border}
    stock: Work = {BORDER: list(border)}
    for operation in segment.operations:
        kind = class_of(operation)
        numbers = features(operation, [shapes[value] for value in operation.inputs], shapes[operation.output])
        _add(kernels, kind, numbers)
        _add(stock, _stock_class(operation, kind), numbers)
    return kernels, stock


def _add(work: Work, kind: str, numbers: Iterable[float]) -> None:
    total = work.setdefault(kind, [0.0] * len(FEATURES))
    for index, number in enumerate(numbers):
        total[index] += number


def class_of(operation: Operation) -> str:
    """The class whose operations cost alike; convolutions by their window and groups, float results apart."""
    name = type(operation).__name__
    if isinstance(operation, (Conv, DynamicConv)):
        if operation.groups > 1:
            return f"{name} depthwise" if operation.weights.shape[1] == 1 else f"{name} groups"
        return f"{name} pointwise" if prod(operation.weights.shape[2:]) == 1 else name
    return f"{name} float" if operation.writes_float and isinstance(operation, (MatMul, ActivationMatMul)) else name


def _stock_class(operation: Operation, kind: str) -> str:
    """The class in onnxruntime, which has different kernels for different spellings of a product."""
    if not isinstance(operation, (MatMul, DynamicMatMul)):
        return kind
    named = [node.op.rpartition("::")[2] for node in operation.nodes if node.op in _PRODUCTS]
    return f"{kind} {named[0]}" if named else kind


def features(operation: Operation, inputs: Sequence[Shape], output: Shape) -> tuple[float, ...]:
    """How much of each of FEATURES the operation is."""
    elements, read, unfolded, macs = float(prod(output)), 0.0, 0.0, 0.0
    if isinstance(operation, (LinearOperation, DynamicProduct)):
        read = float(prod(inputs[0]))
        weights = operation.weights.shape
        if isinstance(operation, (Conv, DynamicConv)):
            depth, pixels, groups = prod(weights[1:]), elements / max(weights[0], 1), operation.groups
            if weights[1] == 1 < groups:
                macs = elements * depth
            else:
                macs = pixels * groups * _filled(weights[0] // groups, _LANES) * _filled(depth, _DEPTH)
                unfolded = pixels * groups * depth if prod(weights[2:]) > 1 else 0.0
        else:
            macs = elements / max(weights[1], 1) * _filled(weights[1], _LANES) * _filled(weights[0], _DEPTH)
    elif isinstance(operation, (ActivationMatMul, FloatMatMul)) and inputs[0]:
        read = float(prod(inputs[0]) + prod(inputs[1]))
        macs = elements * inputs[0][-1]
    return 1.0, read, elements, unfolded, macs


def _filled(size: int, step: int) -> int:
    return -(-size // step) * step
