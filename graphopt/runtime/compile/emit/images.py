"""Emission of image operations, channels last: resizing, pools, LRN. Functions as in `elementwise`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from ....kernels.elementwise.codes import prepare_table
from ....kernels.layout.interpolate import (
    Coordinates,
    Nearest,
    linear_taps,
    nearest_places,
    prepare_resize_linear,
)
from ....kernels.layout.moves import prepare_resize_nearest
from ....kernels.normalization.lrn import prepare_lrn
from ....kernels.pooling.codes import prepare_average_pool, prepare_max_pool
from ....kernels.pooling.floats import prepare_float_pool
from ....kernels.tensors.windows import Image
from ...lower import operations as op
from ...lower.floats import operations as float_op
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter
from ..layouts import channels_last
from ..shapes import max_pool_shape, operation_window
from ..tensor import Tensor


def emit_resize(emitter: RoutineEmitter, operation: op.Resize, inputs: Inputs, shape: Shape) -> Tensor:
    """Maps the codes by the optional table, then takes the nearest element."""
    x, image = emitter.image(inputs[0])
    if operation.table is not None:
        x = emitter.result(prepare_table(x.size, operation.table), x.shape, x.order, x=x)
    how, nearest = cast(Coordinates, operation.coordinates), cast(Nearest, operation.nearest)
    rows, columns = (
        nearest_places(size, out, scale, how, nearest) for size, out, scale in _resized(operation, image, shape)
    )
    itemsize = 4 if operation.floats else 1
    routine = prepare_resize_nearest(replace(image, channels=image.channels * itemsize), rows, columns)
    return emitter.result(routine, shape, channels_last(len(shape)), itemsize, x=x)


def _resized(
    operation: op.Resize | float_op.FloatResize, image: Image, shape: Shape
) -> Iterator[tuple[int, int, float]]:
    """Input size, output size and scale, of rows, then of columns; a sequence counts as one row."""
    target = shape[2:] if len(shape) == 4 else (1, shape[2])
    scales = operation.scales or tuple(out / size for size, out in zip((image.height, image.width), target))
    yield from zip((image.height, image.width), target, (1.0, *scales)[-2:])


def emit_max_pool(emitter: RoutineEmitter, operation: op.MaxPool, inputs: Inputs, shape: Shape) -> Tensor:
    """Maximum of codes, then the optional table."""
    x, image = emitter.image(inputs[0])
    routine = prepare_max_pool(image, operation_window(operation, x.shape[2:]), signed=operation.signed)
    y = emitter.result(routine, shape, channels_last(len(shape)), x=x)
    if operation.table is None:
        return y
    return emitter.result(prepare_table(y.size, operation.table), shape, y.order, x=y)


def emit_average_pool(emitter: RoutineEmitter, operation: op.AveragePool, inputs: Inputs, shape: Shape) -> Tensor:
    """Mean of codes, requantized."""
    x, image = emitter.image(inputs[0])
    window, include = operation_window(operation, x.shape[2:]), operation.count_include_pad
    routine = prepare_average_pool(image, window, operation.x, operation.y, count_include_pad=include)
    return emitter.result(routine, shape, channels_last(len(shape)), x=x)


def emit_float_pool(emitter: RoutineEmitter, operation: op.FloatPool, inputs: Inputs, shape: Shape) -> Tensor:
    """Maximum or mean of float32."""
    x, image = emitter.image(inputs[0])
    window, include = operation_window(operation, x.shape[2:]), operation.count_include_pad
    routine = prepare_float_pool(image, window, mean=operation.mean, count_include_pad=include)
    return emitter.result(routine, shape, channels_last(len(shape)), 4, x=x)


def emit_float_resize(
    emitter: RoutineEmitter, operation: float_op.FloatResize, inputs: Inputs, shape: Shape
) -> Tensor:  # fmt: skip
    """float32 interpolated between two rows and two columns."""
    x, image = emitter.image(inputs[0])
    how = cast(Coordinates, operation.coordinates)
    rows, columns = (linear_taps(size, out, scale, how) for size, out, scale in _resized(operation, image, shape))
    return emitter.result(prepare_resize_linear(image, rows, columns), shape, channels_last(4), 4, x=x)


def emit_lrn(emitter: RoutineEmitter, operation: op.Lrn, inputs: Inputs, shape: Shape) -> Tensor:
    """Normalizes all channels of a pixel at once, with an optional MaxPool before and behind."""
    order, x, before = channels_last(len(inputs[0].shape)), inputs[0], operation.pool_before
    if before is not None:
        x = emit_max_pool(emitter, before, (x,), max_pool_shape(before, (x.shape,)))
    x = emitter.ordered(x, order)
    sizes = x.size // max(1, x.shape[1]), x.shape[1], operation.size
    numbers = operation.alpha, operation.beta, operation.bias
    y = emitter.result(prepare_lrn(*sizes, *numbers, operation.x, operation.y), x.shape, order, x=x)
    pool = operation.pool
    return y if pool is None else emit_max_pool(emitter, pool, (y,), max_pool_shape(pool, (y.shape,)))
