"""The one form of constants: an immutable tensor that is read when first needed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .types import DType, TensorType

_KEEP_BELOW = 4096


class Constant:
    """An immutable tensor.

    `source` is the object it was lifted from (an `onnx_ir` tensor); while nobody replaces the constant it is emitted
    as it came, so that external data stays external and packed formats stay packed.
    """

    __slots__ = ("_array", "_nbytes", "_read", "_shared", "dtype", "shape", "size", "source")

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], read: Callable[[], np.ndarray[Any, Any]], source: Any = None
    ) -> None:
        self.dtype, self.shape, self.source = dtype, shape, source
        self.size = math.prod(shape)  # the number of elements
        self._nbytes = (self.size * dtype.bits + 7) // 8
        self._read = read
        self._array: np.ndarray[Any, Any] | None = None
        self._shared: weakref.ref[np.ndarray[Any, Any]] | None = None  # what somebody else may still hold

    @classmethod
    def of(cls, array: Any, dtype: DType | None = None) -> Constant:
        """A constant that holds a numpy array (not copied; do not write to it afterwards)."""
        array = np.asarray(array)
        constant = cls(DType.of(array.dtype) if dtype is None else dtype, array.shape, lambda: array)
        constant._array = array
        return constant

    def array(self) -> np.ndarray[Any, Any]:
        """The values; read-only. Large lifted tensors are views of the file, mapped and not kept.

        An array that a caller still holds is handed out again: to read it anew may copy it.
        """
        if self._array is not None:
            return self._array
        array = None if self._shared is None else self._shared()
        if array is None:
            array = self._read()
            if self.size <= _KEEP_BELOW:
                self._array = array
            else:
                self._shared = weakref.ref(array)
        return array

    @property
    def type(self) -> TensorType:
        """The type of the value that holds this constant."""
        return TensorType(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes the elements take in the file (4-bit types packed; strings by their UTF-8 length)."""
        if self.dtype is DType.STRING:
            return sum(len(s) if isinstance(s, bytes) else len(str(s).encode()) for s in self.array().flat)
        return self._nbytes

    def __repr__(self) -> str:
        return f"Constant({self.type})"
