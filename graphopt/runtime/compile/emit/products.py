"""Emission of products: convolutions and matrix products with packed weights, products of two activations.

Functions as in `elementwise`.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ....errors import Declined
from ....kernels import Buffer, Routine
from ....kernels.layout.moves import copy_rows_step
from ....kernels.layout.permute import prepare_permute
from ....kernels.products.activation_product import prepare_activation_product
from ....kernels.products.depthwise import prepare_depthwise
from ....kernels.products.dynamic_conv import prepare_dynamic_conv
from ....kernels.products.dynamic_matmul import prepare_dynamic_matmul
from ....kernels.products.epilogue import AddedTensor, Epilogue, FloatOutput, Requantize
from ....kernels.products.float_product import prepare_float_product
from ....kernels.products.matmul_conv import Activations, prepare_conv, prepare_matmul
from ....kernels.products.tiles import Strides
from ....kernels.tensors.windows import Image
from ....kernels.winograd.algebra import F2, F4
from ....kernels.winograd.choice import choose
from ....kernels.winograd.convolution import prepare_winograd
from ...lower import operations as op
from ...lower.traits import Operation, Shape
from ..emitter import Inputs, RoutineEmitter
from ..executable import Memory
from ..layouts import Order, channels_last, natural
from ..shapes import operation_window
from ..tensor import Tensor


def emit_conv(emitter: RoutineEmitter, operation: op.Conv, inputs: Inputs, shape: Shape) -> Tensor:
    """Depthwise, Winograd or direct convolution, channels last."""
    x, image = emitter.image(inputs[0])
    routine = _conv(operation, x, image, emitter.memory)
    return _finished(emitter, operation, routine, x, inputs, shape, channels_last(len(shape)))


def emit_matmul(emitter: RoutineEmitter, operation: op.MatMul, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows in ONNX's order; behind a Flatten that moved no element, the weights' rows are permuted instead."""
    x, weights = inputs[0], operation.weights
    before = emitter.unflattened.get(operation.inputs[0])
    if before is not None:
        sizes = before.shape[1:]
        order = tuple(axis - 1 for axis in before.order[1:])
        weights = weights.reshape(*sizes, -1).transpose(*order, len(sizes)).reshape(weights.shape)
        x = replace(before, shape=x.shape, order=natural(2))
    x = emitter.ordered(x, natural(len(x.shape)))
    routine = prepare_matmul(
        prod(x.shape[:-1]), weights, _activations(operation), _output(operation), bias=operation.bias,
        weight_zero_point=operation.weight_zero_point,
    )  # fmt: skip
    return _finished(emitter, operation, routine, x, inputs, shape, natural(len(shape)))


def emit_conv_transpose(
    emitter: RoutineEmitter, operation: op.ConvTranspose, inputs: Inputs, shape: Shape
) -> Tensor:  # fmt: skip
    """A convolution computes the output pixels of all phases as channels; these are interleaved and cropped."""
    x, image = emitter.image(inputs[0])
    weights, strides = operation.weights, operation.strides
    rows, columns = (
        max(size, -(-(begin + out) // stride))
        for size, out, begin, stride in zip((image.height, image.width), shape[2:], operation.begin, strides)
    )
    pads = (*operation.pads, rows - image.height, columns - image.width)
    routine = prepare_conv(
        image.shape, weights, _activations(operation), _output(operation), bias=operation.bias,
        weight_zero_point=operation.weight_zero_point, pads=pads,
    )  # fmt: skip
    itemsize, channels, order = 4 if operation.y is None else 1, operation.channels, channels_last(4)
    phases = emitter.result(routine, (shape[0], len(weights), rows, columns), order, itemsize, x=x)
    sizes = (shape[0] * rows, columns, *strides, channels)
    height, width = rows * strides[0], columns * strides[1]
    spread = prepare_permute(sizes, (0, 2, 1, 3, 4), itemsize)
    y = emitter.result(spread, (shape[0], channels, height, width), order, itemsize, x=phases)
    if (height, width) == shape[2:]:
        return y
    pixel = channels * itemsize
    first = (operation.begin[0] * width + operation.begin[1]) * pixel
    cuts = tuple(
        copy_rows_step(
            shape[2], shape[3] * pixel, Buffer("x", first + index * height * width * pixel),
            Buffer("y", index * shape[2] * shape[3] * pixel), x_stride=width * pixel, y_stride=shape[3] * pixel,
        )
        for index in range(shape[0])
    )  # fmt: skip
    return emitter.result(Routine(cuts), shape, order, itemsize, x=y)


def _finished(
    emitter: RoutineEmitter, operation: op.LinearOperation, routine: Routine, x: Tensor, inputs: Inputs,
    shape: Shape, order: Order,
) -> Tensor:  # fmt: skip
    y = emitter.new(shape, order, 4 if operation.y is None else 1)
    added = {} if operation.residual is None else {"residual": emitter.ordered(inputs[1], order)}
    emitter.add(routine, x=x, y=y, **added)
    return y


def _conv(operation: op.Conv, x: Tensor, image: Image, memory: Memory) -> Routine:
    window = operation_window(operation, x.shape[2:])
    weights = _as_image_weights(operation.weights)
    if operation.is_depthwise and operation.y is not None:
        return prepare_depthwise(
            image, window, weights[:, 0], operation.requantization, x_zero_point=operation.x.zero_point,
            x_signed=operation.x.signed, weight_zero_point=operation.weight_zero_point, bias=operation.bias,
            y_zero_point=operation.y.zero_point, y_signed=operation.y.signed, clamp=operation.clamp,
            table=operation.table,
        )  # fmt: skip
    square = weights.shape[2:] == (3, 3) and operation.groups == 1
    if square and window.strides == (1, 1) and window.dilations == (1, 1):
        routine = _winograd(operation, weights, image, window.pads, memory)
        if routine is not None:
            return routine
    return prepare_conv(
        image.shape, weights, _activations(operation), _output(operation), bias=operation.bias,
        weight_zero_point=operation.weight_zero_point, strides=window.strides, pads=window.pads,
        dilations=window.dilations, groups=operation.groups,
    )  # fmt: skip


def _winograd(
    operation: op.Conv, weights: npt.NDArray[Any], image: Image, pads: tuple[int, int, int, int], memory: Memory
) -> Routine | None:
    """The exact variant, F(4×4) or F(2×2), that is predicted to be fastest; None where direct convolution is."""
    variants = [F4, F2]
    while variants:
        variant = choose(image.shape, len(weights), pads=pads, exact=variants)
        if variant is None:
            return None
        try:
            return prepare_winograd(
                image.shape, weights, _activations(operation), _output(operation), bias=operation.bias, variant=variant,
                pads=pads, weight_zero_point=operation.weight_zero_point, on_the_fly=memory == "small",
            )  # fmt: skip
        except Declined:
            variants.remove(variant)
    return None


def _as_image_weights(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The weights as [O, C / groups, height, width], of height 1 for a sequence."""
    return weights if weights.ndim == 4 else weights[:, :, None, :]


def _activations(operation: op.LinearOperation) -> Activations:
    return Activations(operation.x.dtype, operation.x.zero_point)


def _output(operation: op.LinearOperation) -> Epilogue:
    y = operation.y
    if y is None:
        return FloatOutput(operation.scale, None, *operation.float_limits)
    low, high = operation.clamp or (None, None)
    residual = None
    if operation.residual is not None:
        inner, other = operation.residual.inner, operation.residual.other
        residual = AddedTensor(
            inner.scale, inner.zero_point, inner.dtype, other.scale, other.zero_point, other.dtype, y.scale
        )
    return Requantize(
        operation.requantization, y.zero_point, y.dtype, low, high, residual=residual, table=operation.table
    )


def emit_dynamic_matmul(emitter: RoutineEmitter, operation: op.DynamicMatMul, inputs: Inputs, shape: Shape) -> Tensor:
    """Activation rows in ONNX's order, quantized while running."""
    x = emitter.ordered(inputs[0], natural(len(inputs[0].shape)))
    routine = prepare_dynamic_matmul(
        prod(shape[:-1]), operation.weights, operation.scale, bias=operation.bias,
        weight_zero_point=operation.weight_zero_point,
    )  # fmt: skip
    return emitter.result(routine, shape, natural(len(shape)), 4, x=x)


def emit_dynamic_conv(emitter: RoutineEmitter, operation: op.DynamicConv, inputs: Inputs, shape: Shape) -> Tensor:
    """An image with channels last, quantized while running."""
    x, image = emitter.image(inputs[0])
    routine = prepare_dynamic_conv(
        image, operation_window(operation, x.shape[2:]), _as_image_weights(operation.weights), operation.scale,
        bias=operation.bias, weight_zero_point=operation.weight_zero_point, groups=operation.groups,
        limits=operation.limits,
    )  # fmt: skip
    return emitter.result(routine, shape, channels_last(len(shape)), 4, floats=x)


def emit_activation_matmul(
    emitter: RoutineEmitter, operation: op.ActivationMatMul, inputs: Inputs, shape: Shape
) -> Tensor:
    """Any order with rows of `a` and rows or columns of `b` in one piece."""
    a, b = (_in_rows(emitter, x, columns_too=slot == 1) for slot, x in enumerate(inputs))
    y = _new_in_rows(emitter, operation, shape, 4 if operation.y is None else 1)
    scale = np.asarray(np.float32(operation.a.scale) * np.float32(operation.b.scale))
    output: Epilogue = FloatOutput(scale)
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


def emit_float_matmul(emitter: RoutineEmitter, operation: op.FloatMatMul, inputs: Inputs, shape: Shape) -> Tensor:
    """Any order with rows of `a` and rows or columns of `b` in one piece."""
    a, b = (_in_rows(emitter, x, columns_too=slot == 1) for slot, x in enumerate(inputs))
    y = _new_in_rows(emitter, operation, shape, 4)
    places = _strides(a), _strides(b), _strides(y)
    emitter.add(prepare_float_product(_batch(shape), (shape[-2], a.shape[-1], shape[-1]), places), a=a, b=b, y=y)
    return y


def _new_in_rows(emitter: RoutineEmitter, operation: Operation, shape: Shape, itemsize: int) -> Tensor:
    """A tensor for the result, in its readers' preferred order if that keeps rows contiguous, else in ONNX's."""
    order = emitter.wanted.get(operation.output, natural(len(shape)))
    return emitter.new(shape, order if order[-1] == len(shape) - 1 else natural(len(shape)), itemsize)


def _batch(shape: Shape) -> tuple[int, int]:
    outer, inner = (1, 1, *shape[:-2])[-2:]
    return outer, inner


def _in_rows(emitter: RoutineEmitter, x: Tensor, *, columns_too: bool) -> Tensor:
    """The tensor with contiguous rows (or columns, with `columns_too`); moved to ONNX's order if it has neither."""
    last = [axis for axis in x.order if x.shape[axis] != 1][-1:]
    rank = len(x.shape)
    if not last or last[0] == rank - 1 or (columns_too and last[0] == rank - 2):
        return x
    return emitter.ordered(x, natural(rank))


def _strides(x: Tensor) -> Strides:
    """Strides in elements of four axes, missing axes in front; 0 along axes of size 1."""
    steps, step = {}, 1
    for axis in reversed(x.order):
        steps[axis] = step
        step *= x.shape[axis]
    strides = [0] * (4 - len(x.shape)) + [0 if size == 1 else steps[axis] for axis, size in enumerate(x.shape)]
    return Strides(strides[0], strides[1], strides[2], 1 if x.shape[-1] == 1 else strides[3])
