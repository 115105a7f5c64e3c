"""Emission of a transformer's operations: attention, Softmax, LayerNormalization, and the float32 between them."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ...kernels.activation_product import Strides, prepare_activation_product
from ...kernels.channel_table import prepare_channel_table, prepare_float_table
from ...kernels.dynamic_conv import prepare_dynamic_conv
from ...kernels.elementwise import prepare_table
from ...kernels.epilogue import Dequantize, Output, Requantize
from ...kernels.float_pooling import prepare_float_pool
from ...kernels.float_product import prepare_float_product
from ...kernels.floats import SWAPPED, prepare_clamp, prepare_float_binary, prepare_gelu
from ...kernels.lrn import prepare_lrn
from ...kernels.normalization import prepare_layer_norm
from ...kernels.product import Activations
from ...kernels.softmax import prepare_float_softmax, prepare_softmax
from ..lower.operations import (
    ActivationMatMul,
    ChannelTable,
    DynamicConv,
    FloatBinary,
    FloatClamp,
    FloatMatMul,
    FloatPool,
    FloatSoftmax,
    FloatTable,
    Gelu,
    LayerNorm,
    Lrn,
    Operation,
    Softmax,
)
from .layouts import Shape, channels_last, natural, physical_shape
from .shapes import operation_window

if TYPE_CHECKING:
    from .emitter import RoutineEmitter, Tensor


@singledispatch
def emit_float(operation: Operation, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """Append what computes the operation; where its result is. Raises ValueError where no kernel takes it."""
    raise ValueError(f"no kernel for {type(operation).__name__}")


@emit_float.register(ChannelTable)
def _(operation: ChannelTable, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    (x,) = inputs
    if operation.tables is not None:
        y = emitter.new(x.shape, x.order)
        if len(operation.tables) == 1:
            emitter.add(prepare_table(y.size, operation.tables), x=x, y=y)
        else:
            place = x.order.index(operation.axis % len(x.shape))
            sizes = physical_shape(x.shape, x.order)
            routine = prepare_channel_table(prod(sizes[:place]), operation.tables, prod(sizes[place + 1 :]))
            emitter.add(routine, x=x, y=y)
        x = y
    for move in operation.moves:
        x = emitter.apply(move, x)
    return x


@emit_float.register(FloatTable)
def _(operation: FloatTable, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    y = emitter.new(shape, inputs[0].order, 4)
    emitter.add(prepare_float_table(y.size, operation.table), x=inputs[0], y=y)
    return y


@emit_float.register(FloatBinary)
def _(operation: FloatBinary, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    a, kind = inputs[0], operation.kind
    if operation.constant is not None:
        if a.shape != shape:
            raise ValueError(f"a constant larger than {a.shape}")
        constant = operation.constant.reshape((1,) * (len(shape) - operation.constant.ndim) + operation.constant.shape)
        laid = np.ascontiguousarray(constant.transpose(a.order))
        y = emitter.new(shape, a.order, 4)
        emitter.add(prepare_float_binary(kind, physical_shape(shape, a.order), laid.shape, laid), a=a, y=y)
        return y
    b = inputs[1]
    if a.shape != shape:
        a, b, kind = b, a, SWAPPED[kind]
    if a.shape != shape:
        raise ValueError(f"{kind} of {a.shape} and {b.shape}")
    missing = len(shape) - len(b.shape)
    order = (*range(missing), *(axis + missing for axis in b.order))
    b = emitter.ordered(replace(b, shape=(1,) * missing + b.shape, order=order), a.order)
    y = emitter.new(shape, a.order, 4)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    emitter.add(prepare_float_binary(kind, *sizes), a=a, b=b, y=y)
    return y


@emit_float.register(LayerNorm)
def _(operation: LayerNorm, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    order = natural(len(shape))
    x = emitter.ordered(inputs[0], order)
    y = emitter.new(shape, order, 4 if operation.y is None else 1)
    rows, columns = prod(shape[:-1]), shape[-1]
    routine = prepare_layer_norm(rows, columns, operation.scale, operation.bias, operation.epsilon, operation.y)
    emitter.add(routine, x=x, y=y)
    return y


@emit_float.register(Softmax)
def _(operation: Softmax, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    order = natural(len(shape))
    x, y = emitter.ordered(inputs[0], order), emitter.new(shape, order)
    emitter.add(prepare_softmax(prod(shape[:-1]), shape[-1], operation.x, operation.y), x=x, y=y)
    return y


@emit_float.register(FloatClamp)
def _(operation: FloatClamp, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    y = emitter.new(shape, inputs[0].order, 4)
    numbers = operation.slope, operation.shift, operation.low, operation.high
    emitter.add(prepare_clamp(y.size, *numbers), x=inputs[0], y=y)
    return y


@emit_float.register(FloatPool)
def _(operation: FloatPool, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    x, image = emitter.image(inputs[0])
    y = emitter.new(shape, channels_last(len(shape)), 4)
    window, include = operation_window(operation, x.shape[2:]), operation.count_include_pad
    emitter.add(prepare_float_pool(image, window, mean=operation.mean, count_include_pad=include), x=x, y=y)
    return y


@emit_float.register(DynamicConv)
def _(operation: DynamicConv, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    x, image = emitter.image(inputs[0])
    y = emitter.new(shape, channels_last(len(shape)), 4)
    weights = operation.weights if operation.weights.ndim == 4 else operation.weights[:, :, None, :]
    routine = prepare_dynamic_conv(
        image, operation_window(operation, x.shape[2:]), weights, operation.scale, bias=operation.bias,
        weight_zero_point=operation.weight_zero_point, groups=operation.groups, limits=operation.limits,
    )  # fmt: skip
    emitter.add(routine, floats=x, y=y)
    return y


@emit_float.register(Lrn)
def _(operation: Lrn, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    order = channels_last(len(shape))
    x = emitter.ordered(inputs[0], order)
    y = emitter.new(x.shape, order)
    channels = x.shape[1]
    sizes = prod(x.shape) // max(1, channels), channels, operation.size
    numbers = operation.alpha, operation.beta, operation.bias
    emitter.add(prepare_lrn(*sizes, *numbers, operation.x, operation.y), x=x, y=y)
    return y if operation.pool is None else emitter.apply(operation.pool, y)


@emit_float.register(FloatSoftmax)
def _(operation: FloatSoftmax, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    order = natural(len(shape))
    x, y = emitter.ordered(inputs[0], order), emitter.new(shape, order, 4)
    emitter.add(prepare_float_softmax(prod(shape[:-1]), shape[-1]), x=x, y=y)
    return y


@emit_float.register(Gelu)
def _(operation: Gelu, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    y = emitter.new(shape, inputs[0].order, 4)
    emitter.add(prepare_gelu(y.size, operation.inner, operation.plain, operation.bent), x=inputs[0], y=y)
    return y


@emit_float.register(FloatMatMul)
def _(operation: FloatMatMul, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    a, b = (_in_rows(emitter, x, columns_too=slot == 1) for slot, x in enumerate(inputs))
    y = _product(operation, emitter, shape, 4)
    places = _strides(a), _strides(b), _strides(y)
    emitter.add(prepare_float_product(_batch(shape), (shape[-2], a.shape[-1], shape[-1]), places), a=a, b=b, y=y)
    return y


@emit_float.register(ActivationMatMul)
def _(operation: ActivationMatMul, emitter: RoutineEmitter, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    a, b = (_in_rows(emitter, x, columns_too=slot == 1) for slot, x in enumerate(inputs))
    y = _product(operation, emitter, shape, 4 if operation.y is None else 1)
    scale = np.asarray(np.float32(operation.a.scale) * np.float32(operation.b.scale))
    output: Output = Dequantize(scale)
    if operation.y is not None:
        output = Requantize(
            np.asarray(scale / np.float32(operation.y.scale)), operation.y.zero_point, operation.y.dtype
        )
    routine = prepare_activation_product(
        _batch(shape), (shape[-2], a.shape[-1], shape[-1]),
        Activations(operation.a.dtype, operation.a.zero_point), Activations(operation.b.dtype, operation.b.zero_point),
        output, (_strides(a), _strides(b), _strides(y)),
    )  # fmt: skip
    emitter.add(routine, a=a, b=b, y=y)
    return y


def _product(operation: Operation, emitter: RoutineEmitter, shape: Shape, itemsize: int) -> Tensor:
    """The result of a product, in the order its readers like best if rows stay in one piece."""
    order = emitter.wanted.get(operation.output, natural(len(shape)))
    return emitter.new(shape, order if order[-1] == len(shape) - 1 else natural(len(shape)), itemsize)


def _batch(shape: Shape) -> tuple[int, int]:
    outer, inner = (1, 1, *shape[:-2])[-2:]
    return outer, inner


def _in_rows(emitter: RoutineEmitter, x: Tensor, *, columns_too: bool) -> Tensor:
    """The tensor with the elements of a row side by side, or those of a column where that will do."""
    last = [axis for axis in x.order if x.shape[axis] != 1][-1:]
    rank = len(x.shape)
    if not last or last[0] == rank - 1 or (columns_too and last[0] == rank - 2):
        return x
    return emitter.ordered(x, natural(rank))


def _strides(x: Tensor) -> Strides:
    """Elements between neighbours along each of four axes, missing ones in front; 0 where one index serves all."""
    steps, step = {}, 1
    for axis in reversed(x.order):
        steps[axis] = step
        step *= x.shape[axis]
    found = [0] * (4 - len(x.shape)) + [0 if size == 1 else steps[axis] for axis, size in enumerate(x.shape)]
    return Strides(found[0], found[1], found[2], 1 if x.shape[-1] == 1 else found[3])
