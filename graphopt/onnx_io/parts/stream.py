"""Serialization tensor by tensor: the same bytes as protobuf's, without a second copy of the weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

from ...ir import Array, DType

_LARGE = 1 << 16
"""Bytes from which a tensor is written separately: for smaller ones a copy costs less."""
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Numbers of the fields `ModelProto.graph`, `GraphProto.initializer` and `TensorProto.raw_data` (onnx/onnx.proto)."""
_BYTES = 2
"""The wire type of a field with a length (protobuf.dev/programming-guides/encoding)."""


def write_proto(proto: onnx.ModelProto, file: BinaryIO, lent: Mapping[str, Array] | None = None) -> None:
    """Write the bytes of `proto.SerializeToString(deterministic=True)`, whose fields lie in the order of their numbers.

    lent: arrays of initializers, by name, that the proto only describes. A message without lent arrays and with fields
    unknown to onnx is serialized whole. Raises EncodeError or ValueError where that fails.
    """
    graph = proto.graph
    lent = lent or {}
    large = [tensor.name in lent or _is_apart(tensor) for tensor in graph.initializer]
    if not lent and (not any(large) or len(UnknownFieldSet(proto)) or len(UnknownFieldSet(graph))):
        file.write(proto.SerializeToString(deterministic=True))
        return
    before, after = _around(graph, INITIALIZER)
    parts: list[bytes | _Tensor] = [before]
    for tensor, is_apart in zip(graph.initializer, large):
        parts.append(_Tensor(tensor, lent.get(tensor.name)) if is_apart else _framed(INITIALIZER, _plain(tensor)))
    parts.append(after)
    head, tail = _around(proto, GRAPH)
    file.write(head)
    file.write(field_prefix(GRAPH, sum(map(len, parts))))
    for part in parts:
        if isinstance(part, bytes):
            file.write(part)
        else:
            part.write(file)
    file.write(tail)


class _Tensor:
    """An initializer whose data is read only while it is written. array: its elements, if not in the proto."""

    def __init__(self, tensor: onnx.TensorProto, array: Array | None = None) -> None:
        if array is not None:
            described, tensor = tensor, onnx.TensorProto()
            tensor.CopyFrom(described)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        self.tensor, self.array = tensor, array
        self.before, self.after = _around(tensor, RAW_DATA)
        size: int = prod(tensor.dims) * DType(tensor.data_type).bits // 8
        self.data_prefix = field_prefix(RAW_DATA, size)
        inside = len(self.before) + len(self.data_prefix) + size + len(self.after)
        self.prefix = field_prefix(INITIALIZER, inside)
        self.bytes: int = len(self.prefix) + inside

    def __len__(self) -> int:
        return self.bytes

    def write(self, file: BinaryIO) -> None:
        """Write the field."""
        data = self.tensor.raw_data if self.array is None else self.array.reshape(-1).view(np.uint8).data
        if len(self.prefix) + len(self.before) + len(self.data_prefix) + len(data) + len(self.after) != self.bytes:
            raise ValueError(f"tensor {self.tensor.name!r} has {len(data)} bytes, its sizes tell otherwise")
        for part in (self.prefix, self.before, self.data_prefix, data, self.after):
            file.write(part)


def _is_apart(tensor: onnx.TensorProto) -> bool:
    is_whole = tensor.HasField("raw_data") and tensor.data_location != onnx.TensorProto.EXTERNAL
    bits = prod(tensor.dims) * DType(tensor.data_type).bits
    return is_whole and bits >= 8 * _LARGE and bits % 8 == 0 and not len(UnknownFieldSet(tensor))


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """The serialized fields of a message before and after field `number`."""
    before, after = type(message)(), type(message)()
    for field in message.DESCRIPTOR.fields:  # not ListFields, which copies the data
        if field.number == number or not _is_set(message, field.name):
            continue
        part, value = before if field.number < number else after, getattr(message, field.name)
        if isinstance(value, (str, bytes, int, float)):
            setattr(part, field.name, value)
        else:
            getattr(part, field.name).MergeFrom(value)
    return _plain(before), _plain(after)


def _is_set(message: Any, name: str) -> bool:
    try:
        return bool(message.HasField(name))
    except ValueError:  # a repeated field
        return len(getattr(message, name)) > 0


def _plain(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def field_prefix(number: int, size: int) -> bytes:
    """The tag and length of a length-delimited field."""
    return _varint(number << 3 | _BYTES) + _varint(size)


def _framed(number: int, data: bytes) -> bytes:
    return field_prefix(number, len(data)) + data


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
