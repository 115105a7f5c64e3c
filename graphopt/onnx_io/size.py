"""How large a model is as a file."""

from __future__ import annotations

import os
from typing import Any

import onnx

from ..ir import Constant, Graph, Model
from .emit import to_proto
from .tensors import external_source


def file_bytes(model: Model, form: Any = None) -> int:
    """Bytes a model takes, external data included, each external tensor once.

    `form` is the same model in the form it came in or was emitted to (path, bytes, proto), which saves emitting it.
    """
    if isinstance(form, (str, os.PathLike)):
        size = os.path.getsize(form)
    elif isinstance(form, (bytes, bytearray, memoryview)):
        size = len(form)
    else:
        size = (form if isinstance(form, onnx.ModelProto) else to_proto(model)).ByteSize()
    return size + external_bytes(model)


def external_bytes(model: Model) -> int:
    """Bytes of the external tensors that the model still refers to."""
    seen: set[int] = set()
    total = 0
    for body in (model, *(f.body for f in model.functions.values())):
        for graph in body.graph.graphs():
            for constant in _constants(graph):
                if external_source(constant) is not None and id(constant) not in seen:
                    seen.add(id(constant))
                    total += constant.nbytes
    return total


def _constants(graph: Graph) -> list[Constant]:
    found = [value.default for value in graph.inputs if value.default is not None]
    for node in (*graph.snapshot(), graph.return_node):
        found += [v.constant for v in node.inputs if v is not None and v.constant is not None]
    return found
