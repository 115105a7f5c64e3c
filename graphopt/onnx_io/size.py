"""How large a model is as a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import onnx

from ..ir import Constant, Model
from .emit import SKELETON_ELEMENTS, Emitter, to_proto
from .tensors import external_source

_SERIALIZE_BELOW = 1 << 20  # protobuf finds a size by serialising; above this many bytes of tensors they are added up


def file_bytes(model: Model, form: Any = None) -> int:
    """Bytes a model takes, external data included, each external tensor once.

    `form` is the same model in the form it came in or was emitted to (path, bytes, proto), which saves emitting it.
    Exact for files and small models; for large ones the tensors count by their elements and the rest is exact.
    """
    constants = list(constants_of(model))
    external = sum(c.nbytes for c in constants if external_source(c) is not None)
    inline = sum(c.nbytes for c in constants) - external
    if isinstance(form, (str, os.PathLike)):
        return os.path.getsize(form) + external
    if isinstance(form, (bytes, bytearray, memoryview)):
        return len(form) + external
    if inline > _SERIALIZE_BELOW:
        left_out = sum(c.nbytes for c in constants if c.size > SKELETON_ELEMENTS)
        return int(Emitter(model, skeleton=True).model().ByteSize()) + left_out
    return int((form if isinstance(form, onnx.ModelProto) else to_proto(model)).ByteSize()) + external


def constants_of(model: Model) -> Iterator[Constant]:
    """Every constant the model reads, defaults included, each once."""
    seen: set[int] = set()
    for body in (model, *(f.body for f in model.functions.values())):
        for graph in body.graph.graphs():
            found = [value.default for value in graph.inputs]
            for node in (*graph.snapshot(), graph.return_node):
                found += [v.constant for v in node.inputs if v is not None]
            for constant in found:
                if constant is not None and id(constant) not in seen:
                    seen.add(id(constant))
                    yield constant
