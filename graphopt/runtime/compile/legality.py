"""The legality table: each operation's output shape, its routines, and the axis order it prefers for its inputs.

An operation is a class in `lower/operations.py`, with its traits, and one row here: all that a region needs to know
about it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...errors import Declined
from ...ir import Value
from ..lower import operations as op
from ..lower.decoders import operations as decoder_op
from ..lower.floats import operations as float_op
from ..lower.traits import Operation, Shape
from . import orders, shapes
from .emit import decoders, elementwise, floats, images, moves, products, selections
from .emitter import Inputs, RoutineEmitter
from .layouts import Order, natural
from .tensor import Tensor

_Op = TypeVar("_Op", bound=Operation)


_ShapeOf = Callable[[_Op, tuple[Shape, ...]], Shape]
_Emit = Callable[[RoutineEmitter, _Op, Inputs, Shape], Tensor]
_OrderOf = Callable[[_Op, Mapping[Value, Shape], Value, Order | None], Order | None]


@dataclass(frozen=True, slots=True)
class Legality(Generic[_Op]):
    """One row of the table.

    shape: the output shape for input shapes. emit: appends the routines and returns the result's tensor, given the
    emitter, the operation, the tensors of its data inputs and the output shape. order: a function of `orders`.
    """

    shape: _ShapeOf[_Op]
    emit: _Emit[_Op]
    order: _OrderOf[_Op]


def _row(
    kind: type[_Op], shape: _ShapeOf[_Op], emit: _Emit[_Op], order: _OrderOf[_Op]
) -> tuple[type[Operation], Legality[Any]]:  # fmt: skip
    return kind, Legality(shape, emit, order)


LEGALITY: Mapping[type[Operation], Legality[Any]] = dict((
    _row(op.ActivationMatMul, shapes.activation_matmul_shape, products.emit_activation_matmul, orders.takes_any),
    _row(op.AveragePool, shapes.mean_pool_shape, images.emit_average_pool, orders.wants_channels_last),
    _row(decoder_op.AppendCache, shapes.appended_shape, decoders.emit_append, orders.wants_natural),
    _row(decoder_op.BlockedMatMul, shapes.blocked_matmul_shape, decoders.emit_blocked_matmul, orders.wants_natural),
    _row(decoder_op.CachedAttention, shapes.attention_shape, decoders.emit_attention, orders.wants_natural),
    _row(decoder_op.Rotary, shapes.first_shape, decoders.emit_rotary, orders.wants_natural),
    _row(op.Binary, shapes.binary_shape, elementwise.emit_binary, orders.wants_as_result),
    _row(op.ChannelQuantize, shapes.side_by_side_shape, elementwise.emit_channel_quantize, orders.wants_inside),
    _row(op.ChannelTable, shapes.channel_table_shape, moves.emit_channel_table, orders.wants_moved),
    _row(op.Concat, shapes.concat_shape, moves.emit_concat, orders.wants_as_result),
    _row(op.Conv, shapes.conv_shape, products.emit_conv, orders.wants_channels_last),
    _row(op.ConvTranspose, shapes.conv_transpose_shape, products.emit_conv_transpose, orders.wants_channels_last),
    _row(op.Dequantize, shapes.first_shape, elementwise.emit_dequantize, orders.wants_as_result),
    _row(op.DynamicConv, shapes.conv_shape, products.emit_dynamic_conv, orders.wants_channels_last),
    _row(op.DynamicMatMul, shapes.matmul_shape, products.emit_dynamic_matmul, orders.wants_natural),
    _row(op.FloatBinary, shapes.float_binary_shape, elementwise.emit_float_binary, orders.wants_as_result),
    _row(op.FloatClamp, shapes.first_shape, elementwise.emit_float_clamp, orders.wants_as_result),
    _row(float_op.FloatFunction, shapes.first_shape, floats.emit_float_function, orders.wants_as_result),
    _row(float_op.Blocks, shapes.blocks_shape, moves.emit_blocks, orders.wants_as_result),
    _row(float_op.Expand, shapes.expand_shape, selections.emit_expand, orders.takes_any),
    _row(float_op.FloatMean, shapes.mean_shape, floats.emit_float_mean, orders.takes_any),
    _row(float_op.FloatResize, shapes.resize_shape, images.emit_float_resize, orders.wants_channels_last),
    _row(float_op.InstanceNorm, shapes.instance_norm_shape, floats.emit_instance_norm, orders.wants_natural),
    _row(float_op.Pad, shapes.pad_shape, selections.emit_pad, orders.wants_as_result),
    _row(float_op.Slice, shapes.slice_shape, selections.emit_slice, orders.wants_as_result),
    _row(op.FloatMatMul, shapes.activation_matmul_shape, products.emit_float_matmul, orders.takes_any),
    _row(op.FloatPool, shapes.mean_pool_shape, images.emit_float_pool, orders.wants_channels_last),
    _row(op.FloatSoftmax, shapes.first_shape, elementwise.emit_float_softmax, orders.wants_natural),
    _row(op.FloatTable, shapes.first_shape, elementwise.emit_float_table, orders.wants_as_result),
    _row(op.Gelu, shapes.first_shape, elementwise.emit_gelu, orders.wants_as_result),
    _row(op.LayerNorm, shapes.first_shape, elementwise.emit_layer_norm, orders.wants_natural),
    _row(op.Lrn, shapes.lrn_shape, images.emit_lrn, orders.wants_channels_last),
    _row(op.MatMul, shapes.matmul_shape, products.emit_matmul, orders.wants_natural),
    _row(op.MaxPool, shapes.max_pool_shape, images.emit_max_pool, orders.wants_channels_last),
    _row(op.Quantize, shapes.first_shape, elementwise.emit_quantize, orders.wants_as_result),
    _row(op.Reshape, shapes.move_shape, moves.emit_reshape, orders.wants_moved),
    _row(op.Resize, shapes.resize_shape, images.emit_resize, orders.wants_channels_last),
    _row(op.Softmax, shapes.first_shape, elementwise.emit_softmax, orders.wants_natural),
    _row(op.Table, shapes.first_shape, elementwise.emit_table, orders.wants_as_result),
    _row(op.Transpose, shapes.move_shape, moves.emit_transpose, orders.wants_transposed),
))  # fmt: skip


def output_shape(operation: Operation, shapes: tuple[Shape, ...]) -> Shape:
    """The logical shape of the result for shapes of all inputs. Declined where these shapes do not fit."""
    try:
        return LEGALITY[type(operation)].shape(operation, shapes)
    except ValueError as error:  # of a kernel's own checks
        raise Declined(str(error), operation.output) from error


def emit(emitter: RoutineEmitter, operation: Operation) -> None:
    """Append the operation's routines to the emitter. Declined where no kernel takes the shapes."""
    emitter.operation = operation
    inputs = tuple([emitter.tensor_of(value) for value in operation.data_inputs])
    try:
        result = LEGALITY[type(operation)].emit(emitter, operation, inputs, emitter.shapes[operation.output])
    except ValueError as error:  # of a kernel's own checks
        raise Declined(str(error), operation.output) from error
    emitter.tensors[operation.output] = result


def wanted_orders(
    operations: Sequence[Operation], shapes: Mapping[Value, Shape], natural_results: Collection[Value] = ()
) -> dict[Value, Order]:
    """The axis order that the readers of each value prefer; values without a preference are left out."""
    wanted: dict[Value, Order] = {value: natural(len(shapes[value])) for value in natural_results}
    for operation in reversed(operations):
        wish = LEGALITY[type(operation)].order
        for value in operation.data_inputs:
            order = wish(operation, shapes, value, wanted.get(operation.output))
            if order is not None:
                wanted.setdefault(value, order)
    return wanted
