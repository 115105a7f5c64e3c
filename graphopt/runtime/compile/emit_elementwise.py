"""Routines of operations that go element by element or row by row: quantization, tables, arithmetic, normalizations.

Each function appends the routines of its operation to the emitter and returns where the result lies, of logical shape
`shape`. Raises Declined or, from the kernels' own checks, ValueError where no kernel takes the shapes.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ...errors import Declined
from ...kernels.channel_table import prepare_float_table
from ...kernels.elementwise import prepare_binary, prepare_dequantize, prepare_quantize, prepare_table
from ...kernels.floats import SWAPPED, prepare_clamp, prepare_float_binary, prepare_gelu
from ...kernels.normalization import prepare_layer_norm
from ...kernels.planes import prepare_dequantize_planes, prepare_quantize_planes
from ...kernels.softmax import prepare_float_softmax, prepare_softmax
from ..lower.operations import (
    Binary,
    Dequantize,
    FloatBinary,
    FloatClamp,
    FloatSoftmax,
    FloatTable,
    Gelu,
    LayerNorm,
    Quantize,
    Softmax,
    Table,
)
from ..lower.traits import Shape
from .emitter import RoutineEmitter, Tensor
from .layouts import channels_last, natural, physical_shape, same_place

Inputs = tuple[Tensor, ...]


def emit_quantize(emitter: RoutineEmitter, operation: Quantize, inputs: Inputs, shape: Shape) -> Tensor:
    """In the order of the input, or straight to channels last where the readers want that."""
    last = channels_last(len(shape))
    if emitter.wanted.get(operation.output) == last and inputs[0].order == natural(len(shape)) != last:
        y = emitter.new(shape, last)
        emitter.add(prepare_quantize_planes(shape[0], shape[1], prod(shape[2:]), operation.y), x=inputs[0], y=y)
        return y
    y = emitter.new(shape, inputs[0].order)
    emitter.add(prepare_quantize(y.size, operation.y), x=inputs[0], y=y)
    return y


def emit_dequantize(emitter: RoutineEmitter, operation: Dequantize, inputs: Inputs, shape: Shape) -> Tensor:
    """In the order of the input, or straight from channels last to ONNX's where the readers do not want the former."""
    order, last = inputs[0].order, channels_last(len(shape))
    if order == last != emitter.wanted.get(operation.output) and not same_place(shape, order, natural(len(shape))):
        y = emitter.new(shape, natural(len(shape)), 4)
        emitter.add(prepare_dequantize_planes(shape[0], shape[1], prod(shape[2:]), operation.x), x=inputs[0], y=y)
        return y
    y = emitter.new(shape, order, 4)
    emitter.add(prepare_dequantize(y.size, operation.x), x=inputs[0], y=y)
    return y


def emit_table(emitter: RoutineEmitter, operation: Table, inputs: Inputs, shape: Shape) -> Tensor:
    """Codes mapped where they lie."""
    y = emitter.new(shape, inputs[0].order)
    emitter.add(prepare_table(y.size, operation.table), x=inputs[0], y=y)
    return y


def emit_binary(emitter: RoutineEmitter, operation: Binary, inputs: Inputs, shape: Shape) -> Tensor:
    """The smaller operand broadcasts to the other, then the table if there is one."""
    (a, b), (qa, qb) = inputs, (operation.a, operation.b)
    if a.shape != shape:
        if operation.kind == "subtract" or b.shape != shape:
            raise Declined(f"{operation.kind} of {a.shape} and {b.shape}")
        a, b, qa, qb = b, a, qb, qa
    b = emitter.broadcastable(b, len(shape), a.order)
    y = emitter.new(shape, a.order)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    emitter.add(prepare_binary(operation.kind, *sizes, qa, qb, operation.y), a=a, b=b, y=y)
    if operation.table is None:
        return y
    mapped = emitter.new(shape, a.order)
    emitter.add(prepare_table(y.size, operation.table), x=y, y=mapped)
    return mapped


def emit_float_table(emitter: RoutineEmitter, operation: FloatTable, inputs: Inputs, shape: Shape) -> Tensor:
    """Codes to float32 where they lie."""
    y = emitter.new(shape, inputs[0].order, 4)
    emitter.add(prepare_float_table(y.size, operation.table), x=inputs[0], y=y)
    return y


def emit_float_binary(emitter: RoutineEmitter, operation: FloatBinary, inputs: Inputs, shape: Shape) -> Tensor:
    """The second operand or the constant broadcasts to the first, or the first to the second."""
    a, kind = inputs[0], operation.kind
    if operation.constant is not None:
        if a.shape != shape:
            raise Declined(f"a constant larger than {a.shape}")
        constant = operation.constant.reshape((1,) * (len(shape) - operation.constant.ndim) + operation.constant.shape)
        constant = np.ascontiguousarray(constant.transpose(a.order))
        y = emitter.new(shape, a.order, 4)
        emitter.add(prepare_float_binary(kind, physical_shape(shape, a.order), constant.shape, constant), a=a, y=y)
        return y
    b = inputs[1]
    if a.shape != shape:
        a, b, kind = b, a, SWAPPED[kind]
    if a.shape != shape:
        raise Declined(f"{kind} of {a.shape} and {b.shape}")
    b = emitter.broadcastable(b, len(shape), a.order)
    y = emitter.new(shape, a.order, 4)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    emitter.add(prepare_float_binary(kind, *sizes), a=a, b=b, y=y)
    return y


def emit_float_clamp(emitter: RoutineEmitter, operation: FloatClamp, inputs: Inputs, shape: Shape) -> Tensor:
    """Elements where they lie."""
    y = emitter.new(shape, inputs[0].order, 4)
    numbers = operation.slope, operation.shift, operation.low, operation.high
    emitter.add(prepare_clamp(y.size, *numbers), x=inputs[0], y=y)
    return y


def emit_gelu(emitter: RoutineEmitter, operation: Gelu, inputs: Inputs, shape: Shape) -> Tensor:
    """Elements where they lie."""
    y = emitter.new(shape, inputs[0].order, 4)
    emitter.add(prepare_gelu(y.size, operation.inner, operation.plain, operation.bent), x=inputs[0], y=y)
    return y


def emit_layer_norm(emitter: RoutineEmitter, operation: LayerNorm, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    x, order = emitter.ordered(inputs[0], natural(len(shape))), natural(len(shape))
    y = emitter.new(shape, order, 4 if operation.y is None else 1)
    rows, columns = prod(shape[:-1]), shape[-1]
    routine = prepare_layer_norm(rows, columns, operation.scale, operation.bias, operation.epsilon, operation.y)
    emitter.add(routine, x=x, y=y)
    return y


def emit_softmax(emitter: RoutineEmitter, operation: Softmax, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    order = natural(len(shape))
    x, y = emitter.ordered(inputs[0], order), emitter.new(shape, order)
    emitter.add(prepare_softmax(prod(shape[:-1]), shape[-1], operation.x, operation.y), x=x, y=y)
    return y


def emit_float_softmax(emitter: RoutineEmitter, operation: FloatSoftmax, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    order = natural(len(shape))
    x, y = emitter.ordered(inputs[0], order), emitter.new(shape, order, 4)
    emitter.add(prepare_float_softmax(prod(shape[:-1]), shape[-1]), x=x, y=y)
    return y
