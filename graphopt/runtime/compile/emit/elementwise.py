"""Emission of elementwise and row-wise operations: quantization, tables, arithmetic, normalizations.

Each function appends the routines of its operation to the emitter and returns the result's tensor, of logical shape
`shape`. Raises Declined, or ValueError from the kernels' own checks, where no kernel takes the shapes.
"""

from __future__ import annotations

from itertools import groupby
from math import prod

import numpy as np

from ....errors import Declined
from ....kernels import Buffer, Routine
from ....kernels.elementwise.codes import prepare_binary, prepare_dequantize, prepare_quantize, prepare_table
from ....kernels.elementwise.floats import SWAPPED, prepare_clamp, prepare_float_binary, prepare_gelu
from ....kernels.elementwise.tables import (
    prepare_channel_lines,
    prepare_channel_table,
    prepare_float_table,
    prepare_quantize_lines,
)
from ....kernels.layout.moves import copy_rows_step
from ....kernels.layout.planes import prepare_dequantize_planes, prepare_quantize_line_planes, prepare_quantize_planes
from ....kernels.normalization.layer_norm import prepare_layer_norm
from ....kernels.normalization.softmax import prepare_float_softmax, prepare_softmax
from ....kernels.tensors.quantization import Quantization
from ...lower import operations as op
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter
from ..layouts import Order, axis_inside, channels_last, natural, physical_shape, same_place
from ..tensor import Tensor
from .selections import repeated


def emit_quantize(emitter: RoutineEmitter, operation: op.Quantize, inputs: Inputs, shape: Shape) -> Tensor:
    """Codes in the order of the input, or in channels last where the readers want that."""
    last = channels_last(len(shape))
    if emitter.wanted.get(operation.output) == last and inputs[0].order == natural(len(shape)) != last:
        routine = prepare_quantize_planes(shape[0], shape[1], prod(shape[2:]), operation.y)
        return emitter.result(routine, shape, last, x=inputs[0])
    return emitter.result(prepare_quantize(prod(shape), operation.y), shape, inputs[0].order, x=inputs[0])


def emit_dequantize(emitter: RoutineEmitter, operation: op.Dequantize, inputs: Inputs, shape: Shape) -> Tensor:
    """float32 in the order of the input, or in ONNX's where the input is channels last and the readers want another."""
    order, last = inputs[0].order, channels_last(len(shape))
    if order == last != emitter.wanted.get(operation.output) and not same_place(shape, order, natural(len(shape))):
        routine = prepare_dequantize_planes(shape[0], shape[1], prod(shape[2:]), operation.x)
        return emitter.result(routine, shape, natural(len(shape)), 4, x=inputs[0])
    return emitter.result(prepare_dequantize(prod(shape), operation.x), shape, order, 4, x=inputs[0])


def emit_table(emitter: RoutineEmitter, operation: op.Table, inputs: Inputs, shape: Shape) -> Tensor:
    """Maps each code by the table; the order of axes stays."""
    return emitter.result(prepare_table(prod(shape), operation.table), shape, inputs[0].order, x=inputs[0])


def emit_binary(emitter: RoutineEmitter, operation: op.Binary, inputs: Inputs, shape: Shape) -> Tensor:
    """Broadcasts the smaller operand to the other; an optional table maps the result's codes."""
    (a, b), (qa, qb) = inputs, (operation.a, operation.b)
    if a.shape != shape:
        if operation.kind == "subtract" or b.shape != shape:
            raise Declined(f"{operation.kind} of {a.shape} and {b.shape}")
        a, b, qa, qb = b, a, qb, qa
    b = _in_one_run(emitter, b, shape, a.order)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    y = emitter.result(prepare_binary(operation.kind, *sizes, qa, qb, operation.y), shape, a.order, a=a, b=b)
    if operation.table is None:
        return y
    return emitter.result(prepare_table(y.size, operation.table), shape, a.order, x=y)


def emit_float_table(emitter: RoutineEmitter, operation: op.FloatTable, inputs: Inputs, shape: Shape) -> Tensor:
    """Maps each code to float32; the order of axes stays."""
    return emitter.result(prepare_float_table(prod(shape), operation.table), shape, inputs[0].order, 4, x=inputs[0])


def emit_float_binary(emitter: RoutineEmitter, operation: op.FloatBinary, inputs: Inputs, shape: Shape) -> Tensor:
    """Broadcasts the constant or second operand to the first operand, or the first to the second."""
    a, kind = inputs[0], operation.kind
    if operation.constant is not None:
        if a.shape != shape:
            raise Declined(f"a constant larger than {a.shape}")
        constant = operation.constant.reshape((1,) * (len(shape) - operation.constant.ndim) + operation.constant.shape)
        if _runs(constant.shape, shape, a.order) > 1:
            constant = np.broadcast_to(constant, shape)
        constant = np.ascontiguousarray(constant.transpose(a.order))
        routine = prepare_float_binary(kind, physical_shape(shape, a.order), constant.shape, constant)
        return emitter.result(routine, shape, a.order, 4, a=a)
    b = inputs[1]
    if a.shape != shape:
        a, b, kind = b, a, SWAPPED[kind]
    if a.shape != shape:
        raise Declined(f"{kind} of {a.shape} and {b.shape}")
    b = _in_one_run(emitter, b, shape, a.order)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    return emitter.result(prepare_float_binary(kind, *sizes), shape, a.order, 4, a=a, b=b)


def _in_one_run(emitter: RoutineEmitter, x: Tensor, shape: Shape, order: Order) -> Tensor:
    """The tensor, repeated until it broadcasts along one run of axes, as kernels need. The angles of a rotary
    embedding broadcast along two runs, sample and head."""
    x = emitter.broadcastable(x, len(shape), order)
    while _runs(x.shape, shape, order) > 1:
        outer = next(axis for axis in order if x.shape[axis] == 1 != shape[axis])
        x = repeated(emitter, x, outer, shape[outer])
    return x


def _runs(shape: Shape, target: Shape, order: Order) -> int:
    """The number of runs of axes, neighbors in memory, along which a tensor broadcasts to a target."""
    repeats = [shape[axis] == 1 for axis in order if target[axis] != 1]
    return sum(here and not before for here, before in zip(repeats, [False, *repeats]))


def emit_float_clamp(emitter: RoutineEmitter, operation: op.FloatClamp, inputs: Inputs, shape: Shape) -> Tensor:
    """Elementwise; the order of axes stays."""
    routine = prepare_clamp(prod(shape), operation.slope, operation.shift, operation.low, operation.high)
    return emitter.result(routine, shape, inputs[0].order, 4, x=inputs[0])


def emit_gelu(emitter: RoutineEmitter, operation: op.Gelu, inputs: Inputs, shape: Shape) -> Tensor:
    """Elementwise; the order of axes stays."""
    routine = prepare_gelu(prod(shape), operation.inner, operation.plain, operation.bent)
    return emitter.result(routine, shape, inputs[0].order, 4, x=inputs[0])


def emit_layer_norm(emitter: RoutineEmitter, operation: op.LayerNorm, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    rows, columns, itemsize = prod(shape[:-1]), shape[-1], 4 if operation.y is None else 1
    routine = prepare_layer_norm(
        rows, columns, operation.scale, operation.bias, operation.epsilon, operation.y, centred=operation.centred
    )
    return _by_rows(emitter, routine, inputs, shape, itemsize)


def emit_softmax(emitter: RoutineEmitter, operation: op.Softmax, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    routine = prepare_softmax(prod(shape[:-1]), shape[-1], operation.x, operation.y)
    return _by_rows(emitter, routine, inputs, shape, 1)


def emit_float_softmax(emitter: RoutineEmitter, operation: op.FloatSoftmax, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    routine = prepare_float_softmax(prod(shape[:-1]), shape[-1], operation.unknown)
    return _by_rows(emitter, routine, inputs, shape, 4)


def _by_rows(emitter: RoutineEmitter, routine: Routine, inputs: Inputs, shape: Shape, itemsize: int) -> Tensor:
    """The routine's result, input and output in ONNX's order, which keeps a row contiguous."""
    order = natural(len(shape))
    return emitter.result(routine, shape, order, itemsize, x=emitter.ordered(inputs[0], order))


def emit_channel_quantize(
    emitter: RoutineEmitter, operation: op.ChannelQuantize, inputs: Inputs, shape: Shape
) -> Tensor:
    """Quantizes channels into one tensor: neighboring inputs of codes are joined first, then each piece is written.

    A single float32 input of NCHW planes, such as an image, is quantized and interleaved in one pass.
    """
    axis = operation.axis % len(shape)
    order = axis_inside(len(shape), axis)
    rows, channels = prod(shape) // max(1, shape[axis]), shape[axis]
    if operation.of_floats == (True,) and axis == 1 and inputs[0].order == natural(len(shape)) != order:
        routine = prepare_quantize_line_planes(shape[0], prod(shape[2:]), operation.numbers)
        return emitter.result(routine, shape, order, x=inputs[0])
    y = emitter.new(shape, order)
    begin = 0
    pieces = groupby(zip(inputs, operation.of_floats), key=lambda pair: pair[1])
    for floats, group in pieces:
        tensors = [emitter.ordered(x, order) for x, _ in group]
        for x in tensors if floats else [_joined(emitter, tensors, axis, rows)]:
            size = x.shape[axis]
            place = slice(begin, begin + size)
            if floats:
                numbers = operation.numbers[:, place]
                emitter.add(prepare_quantize_lines(rows, numbers, operation.y, place=begin, stride=channels), x=x, y=y)
            else:
                _add_codes(emitter, operation, x, y, rows, place)
            begin += size
    return y


def _add_codes(
    emitter: RoutineEmitter, operation: op.ChannelQuantize, x: Tensor, y: Tensor, rows: int, place: slice
) -> None:
    """Requantizes codes by the lines of their channels, or by tables and a copy."""
    channels, size = operation.tables.shape[0], place.stop - place.start
    if operation.lines is not None:
        tables = operation.tables[[c for c, codes in enumerate(_of_codes(operation)) if codes]]
        read = Quantization(1.0, 0, operation.signs[operation.of_floats.index(False)])
        limits = int(tables.min()), int(tables.max())
        lines = operation.lines[:, place]
        routine = prepare_channel_lines(rows, lines, read, operation.y, limits, place=place.start, stride=channels)
        emitter.add(routine, x=x, y=y)
        return
    mapped = emitter.result(prepare_channel_table(rows, operation.tables[place], 1), x.shape, x.order, x=x)
    step = copy_rows_step(rows, size, Buffer("x"), Buffer("y", place.start), x_stride=size, y_stride=channels)
    if rows * size:
        emitter.add(Routine((step,)), x=mapped, y=y)


def _of_codes(operation: op.ChannelQuantize) -> list[bool]:
    """For each channel, whether its input holds codes."""
    return [not floats for floats, size in zip(operation.of_floats, operation.sizes) for _ in range(size)]


def _joined(emitter: RoutineEmitter, parts: list[Tensor], axis: int, rows: int) -> Tensor:
    """Codes joined along `axis`, reusing the longest prefix that an earlier operation joined; `axis` is innermost."""
    known, done = parts[0], 1
    for count in range(len(parts), 1, -1):
        key = tuple(part.buffer for part in parts[:count])
        if key in emitter.joined:
            known, done = emitter.joined[key], count
            break
    if done == len(parts):
        return known
    width = sum(part.shape[axis] for part in parts)
    shape = (*known.shape[:axis], width, *known.shape[axis + 1 :])
    y = emitter.new(shape, known.order)
    begin = 0
    for part in (known, *parts[done:]):
        size = part.shape[axis]
        if rows * size:
            target = Buffer("y", begin)
            step = copy_rows_step(rows, size, Buffer("x"), target, x_stride=size, y_stride=width)
            emitter.add(Routine((step,)), x=part, y=y)
        begin += size
    emitter.joined[tuple(part.buffer for part in parts)] = y
    return y
