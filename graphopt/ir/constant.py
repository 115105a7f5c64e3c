"""Constants: immutable tensors whose data is read when first needed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .types import Array, DType, TensorType

_KEPT_ELEMENTS = 4096
"""Elements of the largest lifted tensor whose array is cached: shapes and scalars, which passes read again and again.
Larger tensors are mapped again, so that weights do not stay in memory."""


class Constant:
    """An immutable tensor.

    `source`: the tensor of the file from which the constant was lifted, and which is emitted for it: external data
    stays external, packed formats stay packed. `half`: the float16 constant that this float32 one widens at each read;
    None for other constants.
    """

    __slots__ = ("_array", "_nbytes", "_read", "_shared", "dtype", "half", "shape", "size", "source")

    def __init__(self, dtype: DType, shape: tuple[int, ...], read: Callable[[], Array], source: Any = None) -> None:
        self.dtype, self.shape, self.source = dtype, shape, source
        self.size = math.prod(shape)  # the number of elements
        self.half: Constant | None = None
        self._nbytes = (self.size * dtype.bits + 7) // 8
        self._read = read
        self._array: Array | None = None
        self._shared: weakref.ref[Array] | None = None  # the array, while a caller holds it

    @classmethod
    def of(cls, array: Any, dtype: DType | None = None) -> Constant:
        """A constant that holds a numpy array (not copied; do not write to it afterwards)."""
        array = np.asarray(array)
        constant = cls(DType.of(array.dtype) if dtype is None else dtype, array.shape, lambda: array)
        constant._array = array
        return constant

    def array(self) -> Array:
        """The elements, read-only. Large lifted tensors are views of the mapped file and are not kept.

        While a caller holds the array, other callers share it, as reading again may copy the data.
        """
        if self._array is not None:
            return self._array
        array = None if self._shared is None else self._shared()
        if array is None:
            array = self._read()
            if self.size <= _KEPT_ELEMENTS:
                self._array = array
            else:
                self._shared = weakref.ref(array)
        return array

    def __reduce__(self) -> tuple[Callable[..., Constant], tuple[Array, DType]]:
        return Constant.of, (self.array(), self.dtype)  # another process gets the elements, not the file

    @property
    def is_held(self) -> bool:
        """Whether the elements are in memory: others are computed or mapped when they are read."""
        return self._array is not None or (self._shared is not None and self._shared() is not None)

    @property
    def type(self) -> TensorType:
        """The type of the value that holds this constant."""
        return TensorType(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements in the file (4-bit types packed; strings by their UTF-8 length)."""
        if self.dtype is DType.STRING:
            return sum(len(s) if isinstance(s, bytes) else len(str(s).encode()) for s in self.array().flat)
        return self._nbytes

    def __repr__(self) -> str:
        return f"Constant({self.type})"
