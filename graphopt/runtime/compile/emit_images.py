"""Routines of operations on images, channels last: resizing, pools, LRN. Functions as in `emit_elementwise`."""

from __future__ import annotations

from math import prod

import numpy as np

from ...errors import Declined
from ...kernels.elementwise import prepare_table
from ...kernels.float_pooling import prepare_float_pool
from ...kernels.layout import prepare_resize_nearest
from ...kernels.lrn import prepare_lrn
from ...kernels.pooling import prepare_average_pool, prepare_max_pool
from ..lower.operations import AveragePool, FloatPool, Lrn, MaxPool, Resize
from ..lower.traits import Shape
from .emitter import RoutineEmitter, Tensor
from .layouts import channels_last
from .shapes import max_pool_shape, operation_window


def emit_resize(emitter: RoutineEmitter, operation: Resize, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """Every element repeated, mapped by the table before that."""
    x, image = emitter.image(inputs[0])
    if shape[:2] != x.shape[:2]:
        raise Declined(f"Resize of {x.shape} to {shape}, batch or channels too")
    if operation.table is not None:
        mapped = emitter.new(x.shape, x.order)
        emitter.add(prepare_table(x.size, operation.table), x=x, y=mapped)
        x = mapped
    y = emitter.new(shape, channels_last(len(shape)))
    height, width = shape[2:] if len(shape) == 4 else (1, shape[2])
    rows = np.arange(height) // (height // image.height)
    columns = np.arange(width) // (width // image.width)
    emitter.add(prepare_resize_nearest(image, rows, columns), x=x, y=y)
    return y


def emit_max_pool(emitter: RoutineEmitter, operation: MaxPool, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """A maximum of codes."""
    x, image = emitter.image(inputs[0])
    y = emitter.new(shape, channels_last(len(shape)))
    window = operation_window(operation, x.shape[2:])
    emitter.add(prepare_max_pool(image, window, signed=operation.signed), x=x, y=y)
    return y


def emit_average_pool(
    emitter: RoutineEmitter, operation: AveragePool, inputs: tuple[Tensor, ...], shape: Shape
) -> Tensor:  # fmt: skip
    """A mean of codes, requantized."""
    x, image = emitter.image(inputs[0])
    y = emitter.new(shape, channels_last(len(shape)))
    window, include = operation_window(operation, x.shape[2:]), operation.count_include_pad
    emitter.add(prepare_average_pool(image, window, operation.x, operation.y, count_include_pad=include), x=x, y=y)
    return y


def emit_float_pool(emitter: RoutineEmitter, operation: FloatPool, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """A maximum or mean of float32."""
    x, image = emitter.image(inputs[0])
    y = emitter.new(shape, channels_last(len(shape)), 4)
    window, include = operation_window(operation, x.shape[2:]), operation.count_include_pad
    emitter.add(prepare_float_pool(image, window, mean=operation.mean, count_include_pad=include), x=x, y=y)
    return y


def emit_lrn(emitter: RoutineEmitter, operation: Lrn, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """Each pixel's channels at once, then the pool if there is one."""
    order = channels_last(len(inputs[0].shape))
    x = emitter.ordered(inputs[0], order)
    y = emitter.new(x.shape, order)
    channels = x.shape[1]
    sizes = prod(x.shape) // max(1, channels), channels, operation.size
    numbers = operation.alpha, operation.beta, operation.bias
    emitter.add(prepare_lrn(*sizes, *numbers, operation.x, operation.y), x=x, y=y)
    pool = operation.pool
    return y if pool is None else emit_max_pool(emitter, pool, (y,), max_pool_shape(pool, (y.shape,)))
