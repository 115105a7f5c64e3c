"""The emitter of one region: kernel routines over numbered buffers, and the tensor of each value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Value
from ...kernels import Routine
from ...kernels.layout.permute import prepare_permute
from ...kernels.tensors.windows import Image
from ..lower.operands import constant_array
from ..lower.traits import Operation, Shape
from .executable import Memory
from .growth import GrowthEmitter
from .layouts import Order, channels_last, natural, physical_shape, same_place
from .tensor import Tensor

_MOST_AXES = 6
"""The most axes of a tensor that is transposed in two steps where one step fails: up to 720 middle orders are tried."""


Inputs = tuple[Tensor, ...]
"""The tensors of an operation's data inputs."""


def _permute(x: Tensor, order: Order) -> Routine | None:
    """The transposition of a tensor to an order; None where it has more runs of axes than the kernel takes."""
    permutation = tuple(x.order.index(axis) for axis in order)
    try:
        return prepare_permute(physical_shape(x.shape, x.order), permutation, x.itemsize)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class BoundRoutine:
    """A routine with the buffers that its names stand for, and the operation that it serves."""

    routine: Routine
    buffers: Mapping[str, int]
    operation: Operation


class RoutineEmitter:
    """Collects the routines of one region at known shapes. Methods raise Declined where no kernel takes a shape."""

    def __init__(
        self, shapes: Mapping[Value, Shape], memory: Memory = "fast", *, wanted: Mapping[Value, Order],
        flattened: Collection[Value] = (),
    ) -> None:  # fmt: skip
        """`shapes` and `wanted`: by value, its shape and the order of axes that its readers prefer.

        `flattened`: values read only by products with constant weights, which can take columns in any order.
        """
        self.shapes, self.memory, self.wanted, self.flattened = shapes, memory, wanted, flattened
        self.sizes: list[int] = []  # bytes of each buffer
        self.constants: dict[int, npt.NDArray[Any]] = {}  # buffers filled once
        self.bound: list[BoundRoutine] = []
        self.tensors: dict[Value, Tensor] = {}
        self.unflattened: dict[Value, Tensor] = {}
        self.joined: dict[tuple[int, ...], Tensor] = {}  # codes side by side, by the buffers of their parts
        self.growing = GrowthEmitter(self._outside)
        self.operation: Operation  # whose routines are added

    def new(self, shape: Shape, order: Order, itemsize: int = 1) -> Tensor:
        """A tensor in a new buffer."""
        self.sizes.append(prod(shape) * itemsize)
        return Tensor(len(self.sizes) - 1, shape, order, itemsize)

    def _outside(self, shape: Shape, size: int) -> Tensor:
        """A float32 tensor in ONNX's order, of which `size` bytes lie in the arena."""
        self.sizes.append(size)
        return Tensor(len(self.sizes) - 1, shape, natural(len(shape)), 4)

    def add(self, routine: Routine, **tensors: Tensor) -> None:
        """Append a routine; its temporaries get buffers that live only as long as it runs."""
        buffers = {name: tensor.buffer for name, tensor in tensors.items()}
        for name, size in routine.temporaries.items():
            self.sizes.append(size)
            buffers[name] = len(self.sizes) - 1
        self.bound.append(BoundRoutine(routine, buffers, self.operation))

    def result(self, routine: Routine, shape: Shape, order: Order, itemsize: int = 1, **tensors: Tensor) -> Tensor:
        """Append a routine that writes a new tensor `y`; returns the tensor."""
        y = self.new(shape, order, itemsize)
        self.add(routine, **tensors, y=y)
        return y

    def tensor_of(self, value: Value) -> Tensor:
        """The tensor of a value; a constant of codes gets a buffer that is filled once."""
        if value not in self.tensors:
            array = constant_array(value)
            if array is None or array.dtype.itemsize != 1:
                raise Declined(f"{value.name or 'a value'} is not available to the region", value)
            self.tensors[value] = self.new(array.shape, natural(array.ndim))
            self.constants[self.tensors[value].buffer] = np.ascontiguousarray(array)
        return self.tensors[value]

    def ordered(self, x: Tensor, order: Order) -> Tensor:
        """The tensor in this order, transposed in memory if the order differs."""
        if same_place(x.shape, x.order, order):
            return replace(x, order=order)
        direct = _permute(x, order)
        if direct is not None:
            return self.result(direct, x.shape, order, x.itemsize, x=x)
        for middle in permutations(order) if len(order) <= _MOST_AXES else ():
            first, second = _permute(x, middle), _permute(replace(x, order=middle), order)
            if first is not None and second is not None:
                half_way = self.result(first, x.shape, middle, x.itemsize, x=x)
                return self.result(second, x.shape, order, x.itemsize, x=half_way)
        raise Declined(f"moving {x.shape} from order {x.order} to {order}")

    def broadcastable(self, x: Tensor, rank: int, order: Order) -> Tensor:
        """The tensor with axes of size 1 in front up to `rank`, in this order."""
        missing = rank - len(x.shape)
        padded = (*range(missing), *(axis + missing for axis in x.order))
        return self.ordered(replace(x, shape=(1,) * missing + x.shape, order=padded), order)

    def image(self, x: Tensor) -> tuple[Tensor, Image]:
        """The tensor with channels last, and its sizes as an image."""
        if len(x.shape) not in (3, 4):
            raise Declined(f"an image of {len(x.shape)} axes")
        x = self.ordered(x, channels_last(len(x.shape)))
        height, width = x.shape[2:] if len(x.shape) == 4 else (1, x.shape[2])
        return x, Image(x.shape[0], height, width, x.shape[1])
