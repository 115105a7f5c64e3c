"""Reading of files with large weights: each weight is read into its own array, and only the rest is parsed.

Protobuf's parser copies all bytes once more, and Python copies a tensor's data at each access.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ...ir import Array, DType
from .stream import GRAPH, INITIALIZER, RAW_DATA, field_prefix
from .wire import WITH_LENGTH, Field, fields

WORTH = 1 << 20
"""The least bytes of large tensors for which a model's weights are kept outside its proto: below, copies cost less than
reading apart saves."""
ELEMENTS = 4096
"""Elements of the largest tensor that always stays in a proto: shapes and bounds, which are read there."""
LENDABLE = frozenset((DType.FLOAT, DType.FLOAT16, DType.DOUBLE, DType.INT8, DType.UINT8))
"""Element types that a session takes from memory."""
LOCATION = "lent/"
"""The beginning of the external-data location that marks a tensor as lent, with its data in memory; its name follows,
so that a session tells the weights apart."""

_KNOWN = frozenset(onnx.TensorProto.DESCRIPTOR.fields_by_number)


def read_apart(path: str) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """The proto of a file, which only describes large weights, and these weights by name, read-only.

    None where large weights are few, and for a file that is no model or cannot be read: a full read reports why.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < WORTH:
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(file, data)
    except (OSError, ValueError, DecodeError):
        return None


def describe_lent(tensor: onnx.TensorProto, size: int) -> None:
    """Mark a tensor, named already, as lent, with `size` bytes of data in memory."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", LOCATION + tensor.name), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))


def put_back(tensor: onnx.TensorProto, array: Array) -> None:
    """Store a lent tensor's elements in its proto again."""
    forget_place(tensor)
    tensor.raw_data = array.tobytes()


def forget_place(tensor: onnx.TensorProto) -> None:
    """Clear the location of a lent tensor."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def with_lent(proto: onnx.ModelProto, lent: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the proto with the lent tensors in it."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.initializer:
        if tensor.name in lent and tensor.data_location == onnx.TensorProto.EXTERNAL:
            put_back(tensor, lent[tensor.name])
    return whole


@dataclass(frozen=True, slots=True)
class _Weight:
    """A tensor read apart: its index among the initializers, the tensor's field, and its data's field."""

    place: int
    tensor: Field
    data: Field


def _read(file: BinaryIO, data: mmap.mmap) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    size = len(data)
    graphs = [field for field in fields(data, 0, size) if field.number == GRAPH]
    if len(graphs) != 1 or graphs[0].wire != WITH_LENGTH:
        return None
    graph, weights, place = graphs[0], list[_Weight](), 0
    for field in fields(data, graph.value, graph.stop):
        if field.number != INITIALIZER:
            continue
        if field.stop - field.value > ELEMENTS and (raw := _data_of(data, field)) is not None:
            weights.append(_Weight(place, field, raw))
        place += 1
    proto = onnx.ModelProto.FromString(_without(data, graph, weights))
    if not proto.opset_import and not proto.ir_version:
        return None
    names = [tensor.name for tensor in proto.graph.initializer]
    once = {name for name in names if names.count(name) == 1} if len(set(names)) < len(names) else set(names)
    found = []
    for weight in weights:
        tensor = proto.graph.initializer[weight.place]
        if tensor.name in once and _fits(tensor, weight.data.stop - weight.data.value):
            found.append((weight, tensor))
        else:
            tensor.raw_data = data[weight.data.value : weight.data.stop]
    if sum(weight.data.stop - weight.data.value for weight, _ in found) < WORTH:
        return None
    lent = {}
    for weight, tensor in found:
        file.seek(weight.data.value)
        array = np.fromfile(file, DType(tensor.data_type).numpy, prod(tensor.dims)).reshape(tuple(tensor.dims))
        array.flags.writeable = False
        describe_lent(tensor, array.nbytes)
        lent[tensor.name] = array
    return proto, lent


def _data_of(data: mmap.mmap, tensor: Field) -> Field | None:
    """The field of a tensor's data; None without exactly one, or with a field unknown to onnx."""
    parts = list(fields(data, tensor.value, tensor.stop))
    raw = [field for field in parts if field.number == RAW_DATA and field.wire == WITH_LENGTH]
    if tensor.wire != WITH_LENGTH or len(raw) != 1 or any(field.number not in _KNOWN for field in parts):
        return None
    return raw[0] if raw[0].stop - raw[0].value > ELEMENTS else None


def _without(data: mmap.mmap, graph: Field, weights: list[_Weight]) -> bytes:
    """The message without the data of these weights."""
    parts, at = list[bytes](), graph.value
    for weight in weights:
        tensor, raw = weight.tensor, weight.data
        rest = data[tensor.value : raw.start] + data[raw.stop : tensor.stop]
        parts += [data[at : tensor.start], field_prefix(INITIALIZER, len(rest)), rest]
        at = tensor.stop
    parts.append(data[at : graph.stop])
    inside = b"".join(parts)
    return data[: graph.start] + field_prefix(GRAPH, len(inside)) + inside + data[graph.stop :]


def _fits(tensor: onnx.TensorProto, size: int) -> bool:
    """Whether a tensor can be lent, and its sizes agree with the bytes of its data."""
    if tensor.data_type not in LENDABLE or tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        return False
    count: int = prod(tensor.dims)
    return count > ELEMENTS and min(tensor.dims) > 0 and count * DType(tensor.data_type).bits == 8 * size
