"""Fields of a protobuf message in a file, found without parsing it (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _EIGHT_BYTES, WITH_LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types: the low three bits of a tag; the others are the field's number."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its number and wire type, and the offsets of the field, its value and the next field."""

    number: int
    wire: int
    start: int
    value: int
    stop: int


def fields(data: mmap.mmap, start: int, stop: int) -> Iterator[Field]:
    """The fields of a message. ValueError where the bytes are no message."""
    while start < stop:
        tag, value = _varint(data, start, stop)
        wire = tag & 7
        if wire == _VARINT:
            _, end = _varint(data, value, stop)
        elif wire == WITH_LENGTH:
            size, value = _varint(data, value, stop)
            end = value + size
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            end = value + (8 if wire == _EIGHT_BYTES else 4)
        else:
            raise ValueError(f"there is no wire type {wire}")
        if end > stop:
            raise ValueError("a field is longer than its message")
        yield Field(tag >> 3, wire, start, value, end)
        start = end


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A varint, and the offset of the byte behind it."""
    value = shift = 0
    while at < stop and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number has no end")
