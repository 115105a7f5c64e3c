"""Output shapes of operations for known input shapes, as the ONNX operators define them."""

from __future__ import annotations

from functools import singledispatch
from math import prod

import numpy as np

from ...ir import Value
from ...kernels.windows import Window
from ...ops import resolve_pads
from ..lower.computed_shapes import integers, resolved
from ..lower.operations import (
    ActivationMatMul,
    AveragePool,
    Binary,
    ChannelTable,
    Concat,
    Conv,
    DynamicConv,
    DynamicMatMul,
    FloatBinary,
    FloatMatMul,
    FloatPool,
    Lrn,
    MatMul,
    MaxPool,
    Operation,
    Reshape,
    Resize,
    Transpose,
)

Shape = tuple[int, ...]
Windowed = Conv | DynamicConv | MaxPool | AveragePool | FloatPool


@singledispatch
def output_shape(operation: Operation, shapes: tuple[Shape, ...]) -> Shape:
    """The logical shape of the result. Raises ValueError for shapes that do not fit."""
    return shapes[0]


def window_of(
    spatial: Shape, kernel: Shape, strides: Shape, pads: Shape, dilations: Shape, auto_pad: str, *, ceil: bool = False
) -> Window:
    """A window over one or two axes as one over two, explicit pads computed from `auto_pad`."""
    rank = len(kernel)
    if len(spatial) != rank:
        raise ValueError(f"a window of {rank} axes over {len(spatial)}")
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    pads = resolve_pads(auto_pad, pads, spatial, kernel, strides, dilations)
    if rank == 1:
        kernel, strides, dilations = (1, *kernel), (1, *strides), (1, *dilations)
        pads = (0, pads[0], 0, pads[1])
    return Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]), ceil,
    )  # fmt: skip


def operation_window(operation: Windowed, spatial: Shape) -> Window:
    """The two-dimensional window of an operation over an image of these spatial sizes."""
    if isinstance(operation, (Conv, DynamicConv)):
        kernel, dilations, ceil = operation.weights.shape[2:], operation.dilations, False
    else:
        kernel, ceil = operation.kernel or spatial, operation.ceil_mode
        dilations = () if isinstance(operation, AveragePool) else operation.dilations
    return window_of(spatial, kernel, operation.strides, operation.pads, dilations, operation.auto_pad, ceil=ceil)


def _windowed(operation: Windowed, x: Shape, channels: int) -> Shape:
    window = operation_window(operation, x[2:])
    spatial = x[2:] if len(x) == 4 else (1, *x[2:])
    made = tuple(window.output_size(axis, size) for axis, size in enumerate(spatial))
    return (x[0], channels, *made[4 - len(x) :])


@output_shape.register(Conv)
@output_shape.register(DynamicConv)
def _(operation: Conv | DynamicConv, shapes: tuple[Shape, ...]) -> Shape:
    (x, *_rest) = shapes
    if len(x) != operation.weights.ndim or x[1] != operation.weights.shape[1] * operation.groups:
        raise ValueError(f"Conv of {x} with weights {operation.weights.shape}")
    return _windowed(operation, x, operation.weights.shape[0])


@output_shape.register
def _(operation: MaxPool, shapes: tuple[Shape, ...]) -> Shape:
    return _windowed(operation, shapes[0], shapes[0][1])


@output_shape.register(AveragePool)
@output_shape.register(FloatPool)
def _(operation: AveragePool | FloatPool, shapes: tuple[Shape, ...]) -> Shape:
    if operation.kernel:
        return _windowed(operation, shapes[0], shapes[0][1])
    return (*shapes[0][:2], *(1,) * (len(shapes[0]) - 2))


@output_shape.register
def _(operation: Lrn, shapes: tuple[Shape, ...]) -> Shape:
    if len(shapes[0]) not in (3, 4):
        raise ValueError(f"LRN of {len(shapes[0])} axes")
    return shapes[0] if operation.pool is None else output_shape(operation.pool, shapes)


@output_shape.register
def _(operation: MatMul, shapes: tuple[Shape, ...]) -> Shape:
    (x, *_rest) = shapes
    if not x or x[-1] != operation.weights.shape[0]:
        raise ValueError(f"MatMul of {x} with weights {operation.weights.shape}")
    return (*x[:-1], operation.weights.shape[1])


@output_shape.register
def _(operation: DynamicMatMul, shapes: tuple[Shape, ...]) -> Shape:
    (x,) = shapes
    if not x or x[-1] != operation.weights.shape[0]:
        raise ValueError(f"MatMul of {x} with weights {operation.weights.shape}")
    return (*x[:-1], operation.weights.shape[1])


@output_shape.register
def _(operation: Binary, shapes: tuple[Shape, ...]) -> Shape:
    return tuple(np.broadcast_shapes(*shapes))


@output_shape.register
def _(operation: Concat, shapes: tuple[Shape, ...]) -> Shape:
    axis = operation.axis % len(shapes[0])
    if any(s[:axis] != shapes[0][:axis] or s[axis + 1 :] != shapes[0][axis + 1 :] for s in shapes):
        raise ValueError(f"Concat of {shapes}")
    return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])


@output_shape.register
def _(operation: Resize, shapes: tuple[Shape, ...]) -> Shape:
    made = operation.sizes or tuple(size * factor for size, factor in zip(shapes[0], operation.factors))
    if len(made) != len(shapes[0]) or any(size == 0 or to % size for size, to in zip(shapes[0], made)):
        raise ValueError(f"Resize of {shapes[0]} to {made}, no whole multiples")
    return made


@output_shape.register
def _(operation: Transpose, shapes: tuple[Shape, ...]) -> Shape:
    return tuple(shapes[0][axis] for axis in permutation_of(operation, len(shapes[0])))


def permutation_of(operation: Transpose, rank: int) -> Shape:
    """The axes in their new order; () means as they are."""
    if operation.permutation is None:
        return tuple(reversed(range(rank)))
    return operation.permutation or tuple(range(rank))


@output_shape.register
def _(operation: Reshape, shapes: tuple[Shape, ...]) -> Shape:
    x, target = shapes[0], operation.target
    if isinstance(target, Value):
        target = tuple(integers(target, dict(zip(operation.inputs[1:], shapes[1:]))).reshape(-1).tolist())
    if operation.kind == "flatten":
        axis = target[0] + len(x) if target[0] < 0 else target[0]
        return prod(x[:axis]), prod(x[axis:])
    if operation.kind == "squeeze":
        axes = {a % len(x) for a in target} or {a for a, size in enumerate(x) if size == 1}
        return tuple(size for a, size in enumerate(x) if a not in axes)
    if operation.kind == "unsqueeze":
        rank = len(x) + len(target)
        axes = {a % rank for a in target}
        rest = iter(x)
        return tuple(1 if a in axes else next(rest) for a in range(rank))
    return resolved(target, x, allow_zero=operation.allow_zero)


@output_shape.register
def _(operation: ChannelTable, shapes: tuple[Shape, ...]) -> Shape:
    shape, known = shapes[0], dict(zip(operation.inputs[1:], shapes[1:]))
    if operation.tables is not None and len(operation.tables) > 1 and shape[operation.axis] != len(operation.tables):
        raise ValueError(f"{len(operation.tables)} tables for {shape}")
    for move in operation.moves:
        shape = output_shape(move, (shape, *(known[value] for value in move.inputs[1:])))
    return shape


@output_shape.register
def _(operation: FloatBinary, shapes: tuple[Shape, ...]) -> Shape:
    if operation.constant is not None:
        shapes = (*shapes, operation.constant.shape)
    return tuple(np.broadcast_shapes(*shapes))


@output_shape.register(FloatMatMul)
@output_shape.register(ActivationMatMul)
def _(operation: Operation, shapes: tuple[Shape, ...]) -> Shape:
    a, b = shapes
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ValueError(f"MatMul of {a} and {b}")
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
