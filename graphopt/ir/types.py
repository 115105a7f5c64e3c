"""Element types and value types, numbered and named as ONNX does (onnx.proto `TensorProto.DataType`)."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""A tensor in memory."""
Dim = int | str | None
"""A size: known, symbolic (equal wherever the name is equal), or unknown."""


class DType(enum.IntEnum):
    """An ONNX element type; its value is the number in the file."""

    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28

    __hash__ = int.__hash__  # an Enum hashes by its name, slowly; element types are looked up all the time

    @property
    def short(self) -> str:
        """The printer's name: `f32`, `i64`, `bf16`."""
        return _SHORT[self]

    @property
    def bits(self) -> int:
        """Bits of an element in the file; 0 for strings and undefined."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        """Whether the type is a floating-point format, from 4 to 64 bits."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether the type is a signed or unsigned integer; bool is not."""
        return self in _INTEGERS

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype (of `ml_dtypes` where numpy has none; strings are objects)."""
        name = _NUMPY[self]
        if name in _PLAIN:
            return np.dtype(name)
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype

    @classmethod
    def of(cls, dtype: np.dtype[Any] | type) -> DType:
        """The element type that stores a numpy dtype; TypeError if ONNX has none."""
        known = _OF_DTYPE.get(dtype)  # numpy takes 30 µs to name a dtype
        if known is not None:
            return known
        name = np.dtype(dtype).name
        if name.startswith(("str", "bytes")) or name == "object":
            return cls.STRING
        if name not in _OF_NUMPY:
            raise TypeError(f"numpy dtype {name} has no ONNX element type")
        _OF_DTYPE[dtype] = _OF_NUMPY[name]
        return _OF_NUMPY[name]


_TABLE = (
    ("UNDEFINED", "undefined", 0, "object"), ("FLOAT", "f32", 32, "float32"), ("UINT8", "u8", 8, "uint8"),
    ("INT8", "i8", 8, "int8"), ("UINT16", "u16", 16, "uint16"), ("INT16", "i16", 16, "int16"),
    ("INT32", "i32", 32, "int32"), ("INT64", "i64", 64, "int64"), ("STRING", "str", 0, "object"),
    ("BOOL", "b8", 8, "bool"), ("FLOAT16", "f16", 16, "float16"), ("DOUBLE", "f64", 64, "float64"),
    ("UINT32", "u32", 32, "uint32"), ("UINT64", "u64", 64, "uint64"), ("COMPLEX64", "c64", 64, "complex64"),
    ("COMPLEX128", "c128", 128, "complex128"), ("BFLOAT16", "bf16", 16, "bfloat16"),
    ("FLOAT8E4M3FN", "f8e4m3fn", 8, "float8_e4m3fn"), ("FLOAT8E4M3FNUZ", "f8e4m3fnuz", 8, "float8_e4m3fnuz"),
    ("FLOAT8E5M2", "f8e5m2", 8, "float8_e5m2"), ("FLOAT8E5M2FNUZ", "f8e5m2fnuz", 8, "float8_e5m2fnuz"),
    ("UINT4", "u4", 4, "uint4"), ("INT4", "i4", 4, "int4"), ("FLOAT4E2M1", "f4e2m1", 4, "float4_e2m1fn"),
    ("FLOAT8E8M0", "f8e8m0", 8, "float8_e8m0fnu"), ("UINT2", "u2", 2, "uint2"), ("INT2", "i2", 2, "int2"),
    ("FLOAT6E2M3", "f6e2m3", 6, "float6_e2m3fn"), ("FLOAT6E3M2", "f6e3m2", 6, "float6_e3m2fn"),
)  # fmt: skip
_SHORT = {DType[name]: short for name, short, _, _ in _TABLE}
_BITS = {DType[name]: bits for name, _, bits, _ in _TABLE}
_NUMPY = {DType[name]: dtype for name, _, _, dtype in _TABLE}
_OF_NUMPY = {dtype: DType[name] for name, _, _, dtype in _TABLE if dtype != "object"}
_OF_DTYPE: dict[Any, DType] = {}
_PLAIN = frozenset(("object", "bool", "complex64", "complex128", "float16", "float32", "float64")) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_FLOATS = frozenset(t for t in DType if "FLOAT" in t.name) | {DType.DOUBLE}
_INTEGERS = frozenset(t for t in DType if "INT" in t.name)


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor. `shape` is None when even the rank is unknown."""

    dtype: DType
    shape: tuple[Dim, ...] | None = None

    @property
    def rank(self) -> int | None:
        """The number of axes, None if unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape if every size is a number, else None."""
        for dim in self.shape or ():
            if not isinstance(dim, int):
                return None
        return self.shape  # type: ignore[return-value]  # all are numbers

    @property
    def is_static(self) -> bool:
        """Whether every size is a number."""
        return self.sizes is not None

    @property
    def size(self) -> int | None:
        """The number of elements, None unless the shape is static."""
        return None if self.sizes is None else math.prod(self.sizes)

    def __str__(self) -> str:
        dims = "*" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype.short}[{dims}]"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """An ONNX sequence."""

    element: Type | None

    def __str__(self) -> str:
        return f"seq({self.element if self.element is not None else '?'})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """An ONNX optional."""

    element: Type | None

    def __str__(self) -> str:
        return f"optional({self.element if self.element is not None else '?'})"


@dataclass(frozen=True, slots=True)
class OtherType:
    """A type that graphopt only carries (sparse tensors, maps, opaque types): the serialized onnx `TypeProto`."""

    proto: bytes

    def __str__(self) -> str:
        return "other"


Type = TensorType | SequenceType | OptionalType | OtherType


def refine(a: Type | None, b: Type | None) -> Type | None:
    """The more precise of two types of one value: `a`, with unknown parts taken from `b`."""
    if a is b or b is None:
        return a
    if a is None:
        return b
    if not (isinstance(a, TensorType) and isinstance(b, TensorType)):
        return a
    dtype = a.dtype or b.dtype
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(dtype, b.shape if a.shape is None else a.shape)
    return TensorType(dtype, tuple(_refine_dim(x, y) for x, y in zip(a.shape, b.shape)))


def _refine_dim(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) or b is None:
        return a
    return b if a is None or isinstance(b, int) else a
