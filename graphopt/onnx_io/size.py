"""File sizes of models and of their constants."""

from __future__ import annotations

import os
from collections.abc import Container
from math import prod
from typing import Any

import onnx

from ..ir import DType, Model
from .emit import to_proto
from .lend import Emission
from .parts.tensors import external_source
from .source import ModelSource
from .weights import constants_of

_SMALL = 4096  # elements; protobuf computes a size by serialising, which is cheap for smaller tensors


def file_bytes(model: Model, form: ModelSource | Emission | None = None) -> int:
    """Bytes of a model as a file, external data included, each external tensor once.

    `form`: the same model as a path, bytes, proto or emission, if available, which saves emitting the model.
    """
    external = external_bytes(model)
    if isinstance(form, (str, os.PathLike)):
        return os.path.getsize(form) + external
    if isinstance(form, (bytes, bytearray, memoryview)):
        return len(form) + external
    if isinstance(form, Emission):
        return proto_bytes(form.proto, form.lent) + external
    return proto_bytes(form if isinstance(form, onnx.ModelProto) else to_proto(model)) + external


def proto_bytes(proto: onnx.ModelProto, lent: Container[str] = ()) -> int:
    """`proto.ByteSize()`, without serializing the large tensors of the root graph. lent: names of tensors that the
    proto only describes, counted as if it held them."""
    rest = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _set(rest, field.name, value)
    graph = onnx.GraphProto()
    parts = 0
    for field, value in proto.graph.ListFields():
        if field.name == "initializer":
            parts += sum(_framed(_tensor_bytes(t, t.name in lent)) for t in value)
        elif field.name == "node":
            parts += sum(_framed(node.ByteSize()) for node in value)
        else:
            _set(graph, field.name, value)
    return int(rest.ByteSize()) + _framed(graph.ByteSize() + parts)


def _set(message: Any, name: str, value: Any) -> None:
    if isinstance(value, (str, bytes, int)):
        setattr(message, name, value)
    else:
        getattr(message, name).MergeFrom(value)


def _tensor_bytes(tensor: onnx.TensorProto, is_lent: bool) -> int:
    """The serialized size of a tensor, computed without its data if the data is large."""
    size = prod(tensor.dims)
    if not is_lent and (size <= _SMALL or not tensor.HasField("raw_data")):
        return int(tensor.ByteSize())
    data = (size * DType(tensor.data_type).bits + 7) // 8
    bare = onnx.TensorProto(
        dims=tensor.dims, data_type=tensor.data_type, name=tensor.name, doc_string=tensor.doc_string,
        metadata_props=tensor.metadata_props, external_data=() if is_lent else tensor.external_data,
    )  # fmt: skip
    for name in ("name", "doc_string", "data_type"):
        if not tensor.HasField(name):
            bare.ClearField(name)
    if tensor.HasField("data_location") and not is_lent:
        bare.data_location = tensor.data_location
    return int(bare.ByteSize()) + _framed(data)


def _framed(size: int) -> int:
    """A length-delimited field of `size` bytes with its tag (of a number below 16) and its length."""
    return 1 + max(1, -(-size.bit_length() // 7)) + size


def external_bytes(model: Model) -> int:
    """Bytes of the model's constants in other files, each constant once."""
    return sum(c.nbytes for c in constants_of(model) if external_source(c) is not None)
