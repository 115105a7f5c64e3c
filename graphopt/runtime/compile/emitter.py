"""Emission: operations on tensors of known shape and layout become routines of kernels over numbered buffers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import singledispatchmethod
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Value
from ...kernels import Buffer, Routine, Step
from ...kernels.depthwise import prepare_depthwise
from ...kernels.dynamic import prepare_dynamic_matmul
from ...kernels.elementwise import prepare_binary, prepare_dequantize, prepare_quantize, prepare_table
from ...kernels.epilogue import Dequantize as FloatOutput
from ...kernels.epilogue import Output, Requantize
from ...kernels.epilogue import Residual as AddedTensor
from ...kernels.layout import COPY_ROWS, map_rows_step, prepare_resize_nearest
from ...kernels.permute import prepare_permute
from ...kernels.planes import prepare_dequantize_planes, prepare_quantize_planes
from ...kernels.pooling import prepare_average_pool, prepare_max_pool
from ...kernels.product import Activations, prepare_conv, prepare_matmul
from ...kernels.windows import Image
from ...kernels.winograd import prepare_winograd
from ...kernels.winograd_algebra import F2, F4
from ...kernels.winograd_choice import choose
from ..lower.operands import constant_array
from ..lower.operations import (
    AveragePool,
    Binary,
    Concat,
    Conv,
    Dequantize,
    DynamicMatMul,
    LinearOperation,
    MatMul,
    MaxPool,
    Operation,
    Quantize,
    Reshape,
    Resize,
    Table,
    Transpose,
    data_inputs,
)
from .emission_float import emit_float
from .fusion import is_depthwise
from .layouts import Order, Shape, channels_last, natural, physical_shape, reshaped, same_place, transposed
from .shapes import operation_window, output_shape, permutation_of

Memory = Literal["fast", "small"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Elements in a buffer: logical shape, order of axes in memory, bytes of an element."""

    buffer: int
    shape: Shape
    order: Order
    itemsize: int = 1

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class BoundRoutine:
    """A routine with the buffers its names stand for, and the operation it came from."""

    routine: Routine
    buffers: Mapping[str, int]
    operation: Operation | None


class RoutineEmitter:
    """Emits one region for known shapes. Raises ValueError where a kernel does not take a shape."""

    def __init__(
        self, shapes: Mapping[Value, Shape], memory: Memory = "fast", *, flattened: Collection[Value] = ()
    ) -> None:
        self.shapes = shapes  # of all values
        self.memory = memory
        self.wanted: Mapping[Value, Order] = {}  # by value, the order its readers like best
        self.flattened = flattened  # values whose readers are products that can take their rows in any order
        self.sizes: list[int] = []  # bytes of each buffer
        self.constants: dict[int, npt.NDArray[Any]] = {}  # buffers filled once
        self.bound: list[BoundRoutine] = []
        self.tensors: dict[Value, Tensor] = {}
        self.current: Operation | None = None
        self.unflattened: dict[Value, Tensor] = {}

    def new(self, shape: Shape, order: Order, itemsize: int = 1) -> Tensor:
        """A tensor in a buffer of its own."""
        self.sizes.append(prod(shape) * itemsize)
        return Tensor(len(self.sizes) - 1, shape, order, itemsize)

    def add(self, routine: Routine, **tensors: Tensor) -> None:
        """Append a routine; its temporaries get buffers that live only as long as it runs."""
        buffers = {name: tensor.buffer for name, tensor in tensors.items()}
        for name, size in routine.temporaries.items():
            self.sizes.append(size)
            buffers[name] = len(self.sizes) - 1
        self.bound.append(BoundRoutine(routine, buffers, self.current))

    def emit(self, operation: Operation) -> None:
        """Append what computes the operation, and remember where its result is."""
        self.current = operation
        read = data_inputs(operation)
        for value in read:
            if value not in self.tensors:
                self.tensors[value] = self._constant(value)
        inputs = tuple(self.tensors[value] for value in read)
        self.tensors[operation.output] = self._emit(operation, inputs, self.shapes[operation.output])

    def apply(self, operation: Transpose | Reshape | MaxPool, x: Tensor) -> Tensor:
        """The result of an operation that is part of another one, for its first input."""
        shape = output_shape(operation, (x.shape, *(self.shapes[value] for value in operation.inputs[1:])))
        return self._emit(operation, (x,), shape)

    def _constant(self, value: Value) -> Tensor:
        array = constant_array(value)
        if array is None or array.dtype.itemsize != 1:
            raise ValueError(f"{value.name or 'a value'} is not available to the region")
        made = self.new(array.shape, natural(array.ndim))
        self.constants[made.buffer] = np.ascontiguousarray(array)
        return made

    def ordered(self, x: Tensor, order: Order) -> Tensor:
        """The tensor in this order, moved if it must be."""
        if same_place(x.shape, x.order, order):
            return replace(x, order=order)
        made = self.new(x.shape, order, x.itemsize)
        permutation = tuple(x.order.index(axis) for axis in order)
        self.add(prepare_permute(physical_shape(x.shape, x.order), permutation, x.itemsize), x=x, y=made)
        return made

    @singledispatchmethod
    def _emit(self, operation: Operation, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        return emit_float(operation, self, inputs, shape)

    @_emit.register
    def _(self, operation: Quantize, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        last = channels_last(len(shape))
        if self.wanted.get(operation.output) == last and inputs[0].order == natural(len(shape)) != last:
            y = self.new(shape, last)
            sizes = shape[0], shape[1], prod(shape[2:])
            self.add(prepare_quantize_planes(*sizes, operation.y), x=inputs[0], y=y)
            return y
        y = self.new(shape, inputs[0].order)
        self.add(prepare_quantize(y.size, operation.y), x=inputs[0], y=y)
        return y

    @_emit.register
    def _(self, operation: Dequantize, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        order, last = inputs[0].order, channels_last(len(shape))
        if order == last != self.wanted.get(operation.output) and not same_place(shape, order, natural(len(shape))):
            y = self.new(shape, natural(len(shape)), 4)
            sizes = shape[0], shape[1], prod(shape[2:])
            self.add(prepare_dequantize_planes(*sizes, operation.x), x=inputs[0], y=y)
            return y
        y = self.new(shape, order, 4)
        self.add(prepare_dequantize(y.size, operation.x), x=inputs[0], y=y)
        return y

    @_emit.register
    def _(self, operation: Table, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        y = self.new(shape, inputs[0].order)
        self.add(prepare_table(y.size, operation.table), x=inputs[0], y=y)
        return y

    @_emit.register
    def _(self, operation: Transpose, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        (x,) = inputs
        return replace(x, shape=shape, order=transposed(x.order, permutation_of(operation, len(shape))))

    @_emit.register
    def _(self, operation: Reshape, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        (x,) = inputs
        order = reshaped(x.shape, x.order, shape)
        if order is not None:
            return replace(x, shape=shape, order=order)
        rows_stay = len(shape) == 2 and shape[0] == x.shape[0] and x.order[0] == 0
        if rows_stay and operation.output in self.flattened:
            self.unflattened[operation.output] = x
            return replace(x, shape=shape, order=natural(2))
        for candidate in self._near(x):
            order = reshaped(x.shape, candidate, shape)
            if order is not None:
                moved = self.ordered(x, candidate)
                return replace(moved, shape=shape, order=order)
        moved = self.ordered(x, natural(len(x.shape)))
        return replace(moved, shape=shape, order=natural(len(shape)))

    def _near(self, x: Tensor) -> list[Order]:
        """Orders that differ by two neighbours changing places: cheap to reach and often enough."""
        found = []
        for place in range(len(x.order) - 2, 0, -1):
            order = list(x.order)
            order[place], order[place + 1] = order[place + 1], order[place]
            found.append(tuple(order))
        return found

    @_emit.register
    def _(self, operation: Binary, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        (a, b), (qa, qb) = inputs, (operation.a, operation.b)
        if a.shape != shape:
            if operation.kind == "subtract" or b.shape != shape:
                raise ValueError(f"{operation.kind} of {a.shape} and {b.shape}")
            a, b, qa, qb = b, a, qb, qa
        padded = replace(
            b, shape=(1,) * (len(shape) - len(b.shape)) + b.shape,
            order=(*range(len(shape) - len(b.shape)), *(axis + len(shape) - len(b.shape) for axis in b.order)),
        )  # fmt: skip
        b = self.ordered(padded, a.order)
        y = self.new(shape, a.order)
        sizes = physical_shape(shape, a.order), physical_shape(b.shape, a.order)
        self.add(prepare_binary(operation.kind, *sizes, qa, qb, operation.y), a=a, b=b, y=y)
        if operation.table is None:
            return y
        mapped = self.new(shape, a.order)
        self.add(prepare_table(y.size, operation.table), x=y, y=mapped)
        return mapped

    @_emit.register
    def _(self, operation: Concat, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        axis = operation.axis % len(shape)
        order = inputs[0].order
        y = self.new(shape, order, inputs[0].itemsize)
        place = order.index(axis)
        inner = prod(shape[a] for a in order[place + 1 :]) * y.itemsize  # bytes
        rows = prod(shape[a] for a in order[:place])
        begin, width = 0, shape[axis] * inner
        for x, table in zip(inputs, operation.tables):
            x = self.ordered(x, order)
            count = x.shape[axis] * inner
            if count and rows:
                target = Buffer("y", begin)
                if table is None:
                    arguments: dict[str, Any] = {
                        "x": Buffer("x"), "y": target, "rows": rows, "x_stride": count, "y_stride": width,
                        "count": count,
                    }  # fmt: skip
                    step = Step(COPY_ROWS, arguments, tiles=-(-rows // 8))
                else:
                    step = map_rows_step(rows, count, table, Buffer("x"), target, x_stride=count, y_stride=width)
                self.add(Routine((step,)), x=x, y=y)
            begin += count
        return y

    @_emit.register
    def _(self, operation: Resize, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        x, image = self.image(inputs[0])
        if shape[:2] != x.shape[:2]:
            raise ValueError(f"Resize of {x.shape} to {shape}, batch or channels too")
        if operation.table is not None:
            mapped = self.new(x.shape, x.order)
            self.add(prepare_table(x.size, operation.table), x=x, y=mapped)
            x = mapped
        y = self.new(shape, channels_last(len(shape)))
        height, width = shape[2:] if len(shape) == 4 else (1, shape[2])
        rows = np.arange(height) // (height // image.height)
        columns = np.arange(width) // (width // image.width)
        self.add(prepare_resize_nearest(image, rows, columns), x=x, y=y)
        return y

    @_emit.register
    def _(self, operation: MaxPool, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        x, image = self.image(inputs[0])
        y = self.new(shape, channels_last(len(shape)))
        window = operation_window(operation, x.shape[2:])
        self.add(prepare_max_pool(image, window, signed=operation.signed), x=x, y=y)
        return y

    @_emit.register
    def _(self, operation: AveragePool, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        x, image = self.image(inputs[0])
        y = self.new(shape, channels_last(len(shape)))
        window = operation_window(operation, x.shape[2:])
        include = operation.count_include_pad
        self.add(prepare_average_pool(image, window, operation.x, operation.y, count_include_pad=include), x=x, y=y)
        return y

    def image(self, x: Tensor) -> tuple[Tensor, Image]:
        """The tensor with channels last, and its sizes as an image."""
        if len(x.shape) not in (3, 4):
            raise ValueError(f"an image of {len(x.shape)} axes")
        x = self.ordered(x, channels_last(len(x.shape)))
        height, width = x.shape[2:] if len(x.shape) == 4 else (1, x.shape[2])
        return x, Image(x.shape[0], height, width, x.shape[1])

    @_emit.register
    def _(self, operation: MatMul, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        x, weights = inputs[0], operation.weights
        before = self.unflattened.get(operation.inputs[0])
        if before is not None:
            sizes = before.shape[1:]
            order = tuple(axis - 1 for axis in before.order[1:])
            weights = weights.reshape(*sizes, -1).transpose(*order, len(sizes)).reshape(weights.shape)
            x = replace(before, shape=x.shape, order=natural(2))
        x = self.ordered(x, natural(len(x.shape)))
        rows = prod(x.shape[:-1])
        routine = prepare_matmul(
            rows, weights, _activations(operation), _output(operation), bias=operation.bias,
            weight_zero_point=operation.weight_zero_point,
        )  # fmt: skip
        return self._product(operation, routine, x, inputs, shape, natural(len(shape)))

    @_emit.register
    def _(self, operation: DynamicMatMul, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        x, y = self.ordered(inputs[0], natural(len(inputs[0].shape))), self.new(shape, natural(len(shape)), 4)
        routine = prepare_dynamic_matmul(
            prod(shape[:-1]), operation.weights, operation.scale, bias=operation.bias,
            weight_zero_point=operation.weight_zero_point,
        )  # fmt: skip
        self.add(routine, x=x, y=y)
        return y

    @_emit.register
    def _(self, operation: Conv, inputs: tuple[Tensor, ...], shape: Shape) -> Tensor:
        x, image = self.image(inputs[0])
        return self._product(operation, self._conv(operation, x, image), x, inputs, shape, channels_last(len(shape)))

    def _product(
        self,
        operation: LinearOperation,
        routine: Routine,
        x: Tensor,
        inputs: tuple[Tensor, ...],
        shape: Shape,
        order: Order,
    ) -> Tensor:
        y = self.new(shape, order, 4 if operation.y is None else 1)
        if operation.residual is None:
            self.add(routine, x=x, y=y)
        else:
            self.add(routine, x=x, y=y, residual=self.ordered(inputs[1], order))
        return y

    def _conv(self, operation: Conv, x: Tensor, image: Image) -> Routine:
        window = operation_window(operation, x.shape[2:])
        weights = operation.weights if operation.weights.ndim == 4 else operation.weights[:, :, None, :]
        if is_depthwise(operation) and operation.y is not None:
            return prepare_depthwise(
                image, window, weights[:, 0], operation.requantization, x_zero_point=operation.x.zero_point,
                x_signed=operation.x.signed, weight_zero_point=operation.weight_zero_point, bias=operation.bias,
                y_zero_point=operation.y.zero_point, y_signed=operation.y.signed, clamp=operation.clamp,
                table=operation.table,
            )  # fmt: skip
        activations, output = _activations(operation), _output(operation)
        square = weights.shape[2:] == (3, 3) and operation.groups == 1
        if square and window.strides == (1, 1) and window.dilations == (1, 1):
            routine = self._winograd(operation, weights, image, window.pads, activations, output)
            if routine is not None:
                return routine
        return prepare_conv(
            image.shape, weights, activations, output, bias=operation.bias,
            weight_zero_point=operation.weight_zero_point, strides=window.strides, pads=window.pads,
            dilations=window.dilations, groups=operation.groups,
        )  # fmt: skip

    def _winograd(
        self, operation: Conv, weights: npt.NDArray[Any], image: Image, pads: Shape, activations: Activations,
        output: Output,
    ) -> Routine | None:  # fmt: skip
        variants = [F4, F2]
        while variants:
            variant = choose(image.shape, len(weights), pads=pads, exact=variants)
            if variant is None:
                return None
            try:
                return prepare_winograd(
                    image.shape, weights, activations, output, bias=operation.bias, variant=variant, pads=pads,
                    weight_zero_point=operation.weight_zero_point, on_the_fly=self.memory == "small",
                )  # fmt: skip
            except Declined:
                variants.remove(variant)
        return None


def _activations(operation: LinearOperation) -> Activations:
    return Activations(operation.x.dtype, operation.x.zero_point)


def _output(operation: LinearOperation) -> Output:
    y = operation.y
    if y is None:
        return FloatOutput(operation.scale, None, *operation.float_limits)
    low, high = operation.clamp or (None, None)
    added = operation.residual
    residual = None
    if added is not None:
        inner, other = added.inner, added.other
        residual = AddedTensor(
            inner.scale, inner.zero_point, inner.dtype, other.scale, other.zero_point, other.dtype, y.scale
        )
    return Requantize(
        operation.requantization, y.zero_point, y.dtype, low, high, residual=residual, table=operation.table
    )
