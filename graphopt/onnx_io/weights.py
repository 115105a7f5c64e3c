"""The constants of a model, their bytes, and whether they are too large to copy."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import onnx

from ..ir import Constant, DType, Model
from ..machine.sessions import LARGE
from .parts.extras import ModelExtras


def is_large(model: Model) -> bool:
    """Whether the weights of a model, or of its original, are too large to copy: sessions on a quantized model unpack
    its weights to the original's size."""
    return unpacked_bytes(model) > LARGE


def unpacked_bytes(model: Model) -> int:
    """Bytes of the constants of a model, or of its original where that has more: sessions may unpack them to these."""
    source = model.raw.proto if isinstance(model.raw, ModelExtras) else None
    return max(weight_bytes(model), 0 if source is None else sum(map(nbytes, source.graph.initializer)))


def weight_bytes(model: Model) -> int:
    """Bytes of all constants of a model."""
    return sum(constant.nbytes for constant in constants_of(model))


def half_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of the weights of a root graph that are in half precision."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return sum(nbytes(tensor) for tensor in proto.graph.initializer if tensor.data_type in halves)


def nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the elements of a tensor, wherever they are."""
    size: int = prod(tensor.dims) * DType(tensor.data_type).bits // 8
    return size


def constants_of(model: Model) -> Iterator[Constant]:
    """Every constant that a node reads or an input defaults to, each once, in the order of the nodes."""
    constants: dict[Constant, None] = {}
    for body in (model, *(f.body for f in model.functions.values())):
        for graph in body.graph.graphs():
            read = [value.default for value in graph.inputs]
            for node in (*graph.snapshot(), graph.return_node):
                read += [v.constant for v in node.inputs if v is not None]
            constants.update((constant, None) for constant in read if constant is not None)
    return iter(constants)
