"""Routines of operations that go element by element or row by row: quantization, tables, arithmetic, normalizations.

Each function appends the routines of its operation to the emitter and returns where the result lies, of logical shape
`shape`. Raises Declined or, from the kernels' own checks, ValueError where no kernel takes the shapes.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ...errors import Declined
from ...kernels import Routine
from ...kernels.elementwise.codes import prepare_binary, prepare_dequantize, prepare_quantize, prepare_table
from ...kernels.elementwise.floats import SWAPPED, prepare_clamp, prepare_float_binary, prepare_gelu
from ...kernels.elementwise.tables import prepare_float_table
from ...kernels.layout.planes import prepare_dequantize_planes, prepare_quantize_planes
from ...kernels.normalization.layer_norm import prepare_layer_norm
from ...kernels.normalization.softmax import prepare_float_softmax, prepare_softmax
from ..lower import operations as op
from ..lower.traits import Shape
from .emitter import Inputs, RoutineEmitter, Tensor
from .layouts import channels_last, natural, physical_shape, same_place


def emit_quantize(emitter: RoutineEmitter, operation: op.Quantize, inputs: Inputs, shape: Shape) -> Tensor:
    """In the order of the input, or straight to channels last where the readers want that."""
    last = channels_last(len(shape))
    if emitter.wanted.get(operation.output) == last and inputs[0].order == natural(len(shape)) != last:
        routine = prepare_quantize_planes(shape[0], shape[1], prod(shape[2:]), operation.y)
        return emitter.result(routine, shape, last, x=inputs[0])
    return emitter.result(prepare_quantize(prod(shape), operation.y), shape, inputs[0].order, x=inputs[0])


def emit_dequantize(emitter: RoutineEmitter, operation: op.Dequantize, inputs: Inputs, shape: Shape) -> Tensor:
    """In the order of the input, or straight from channels last to ONNX's where the readers do not want the former."""
    order, last = inputs[0].order, channels_last(len(shape))
    if order == last != emitter.wanted.get(operation.output) and not same_place(shape, order, natural(len(shape))):
        routine = prepare_dequantize_planes(shape[0], shape[1], prod(shape[2:]), operation.x)
        return emitter.result(routine, shape, natural(len(shape)), 4, x=inputs[0])
    return emitter.result(prepare_dequantize(prod(shape), operation.x), shape, order, 4, x=inputs[0])


def emit_table(emitter: RoutineEmitter, operation: op.Table, inputs: Inputs, shape: Shape) -> Tensor:
    """Codes mapped where they lie."""
    return emitter.result(prepare_table(prod(shape), operation.table), shape, inputs[0].order, x=inputs[0])


def emit_binary(emitter: RoutineEmitter, operation: op.Binary, inputs: Inputs, shape: Shape) -> Tensor:
    """The smaller operand broadcasts to the other, then the table if there is one."""
    (a, b), (qa, qb) = inputs, (operation.a, operation.b)
    if a.shape != shape:
        if operation.kind == "subtract" or b.shape != shape:
            raise Declined(f"{operation.kind} of {a.shape} and {b.shape}")
        a, b, qa, qb = b, a, qb, qa
    b = emitter.broadcastable(b, len(shape), a.order)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    y = emitter.result(prepare_binary(operation.kind, *sizes, qa, qb, operation.y), shape, a.order, a=a, b=b)
    if operation.table is None:
        return y
    return emitter.result(prepare_table(y.size, operation.table), shape, a.order, x=y)


def emit_float_table(emitter: RoutineEmitter, operation: op.FloatTable, inputs: Inputs, shape: Shape) -> Tensor:
    """Codes to float32 where they lie."""
    return emitter.result(prepare_float_table(prod(shape), operation.table), shape, inputs[0].order, 4, x=inputs[0])


def emit_float_binary(emitter: RoutineEmitter, operation: op.FloatBinary, inputs: Inputs, shape: Shape) -> Tensor:
    """The second operand or the constant broadcasts to the first, or the first to the second."""
    a, kind = inputs[0], operation.kind
    if operation.constant is not None:
        if a.shape != shape:
            raise Declined(f"a constant larger than {a.shape}")
        constant = operation.constant.reshape((1,) * (len(shape) - operation.constant.ndim) + operation.constant.shape)
        constant = np.ascontiguousarray(constant.transpose(a.order))
        routine = prepare_float_binary(kind, physical_shape(shape, a.order), constant.shape, constant)
        return emitter.result(routine, shape, a.order, 4, a=a)
    b = inputs[1]
    if a.shape != shape:
        a, b, kind = b, a, SWAPPED[kind]
    if a.shape != shape:
        raise Declined(f"{kind} of {a.shape} and {b.shape}")
    b = emitter.broadcastable(b, len(shape), a.order)
    sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
    return emitter.result(prepare_float_binary(kind, *sizes), shape, a.order, 4, a=a, b=b)


def emit_float_clamp(emitter: RoutineEmitter, operation: op.FloatClamp, inputs: Inputs, shape: Shape) -> Tensor:
    """Elements where they lie."""
    routine = prepare_clamp(prod(shape), operation.slope, operation.shift, operation.low, operation.high)
    return emitter.result(routine, shape, inputs[0].order, 4, x=inputs[0])


def emit_gelu(emitter: RoutineEmitter, operation: op.Gelu, inputs: Inputs, shape: Shape) -> Tensor:
    """Elements where they lie."""
    routine = prepare_gelu(prod(shape), operation.inner, operation.plain, operation.bent)
    return emitter.result(routine, shape, inputs[0].order, 4, x=inputs[0])


def emit_layer_norm(emitter: RoutineEmitter, operation: op.LayerNorm, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    rows, columns, itemsize = prod(shape[:-1]), shape[-1], 4 if operation.y is None else 1
    routine = prepare_layer_norm(rows, columns, operation.scale, operation.bias, operation.epsilon, operation.y)
    return _by_rows(emitter, routine, inputs, shape, itemsize)


def emit_softmax(emitter: RoutineEmitter, operation: op.Softmax, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    routine = prepare_softmax(prod(shape[:-1]), shape[-1], operation.x, operation.y)
    return _by_rows(emitter, routine, inputs, shape, 1)


def emit_float_softmax(emitter: RoutineEmitter, operation: op.FloatSoftmax, inputs: Inputs, shape: Shape) -> Tensor:
    """Rows of ONNX's order."""
    return _by_rows(emitter, prepare_float_softmax(prod(shape[:-1]), shape[-1]), inputs, shape, 4)


def _by_rows(emitter: RoutineEmitter, routine: Routine, inputs: Inputs, shape: Shape, itemsize: int) -> Tensor:
    """From and to ONNX's order, in which a row is one piece."""
    order = natural(len(shape))
    return emitter.result(routine, shape, order, itemsize, x=emitter.ordered(inputs[0], order))
