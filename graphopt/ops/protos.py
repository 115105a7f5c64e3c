"""Types, tensors and attributes as ONNX's protos, and types back from them. onnx is imported at the first call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import Constant, DType, Node, Opaque, OptionalType, OtherType, SequenceType, TensorType, Type

if TYPE_CHECKING:
    import onnx


@lru_cache(maxsize=4096)
def type_proto(type: Type) -> onnx.TypeProto:
    """The `TypeProto` of a type; shared, do not edit it."""
    import onnx

    if isinstance(type, OtherType):
        other: onnx.TypeProto = onnx.TypeProto.FromString(type.proto)
        return other
    proto = onnx.TypeProto()
    if isinstance(type, SequenceType):
        proto.sequence_type.SetInParent()
        if type.element is not None:
            proto.sequence_type.elem_type.CopyFrom(type_proto(type.element))
        return proto
    if isinstance(type, OptionalType):
        proto.optional_type.SetInParent()
        if type.element is not None:
            proto.optional_type.elem_type.CopyFrom(type_proto(type.element))
        return proto
    proto.tensor_type.elem_type = int(type.dtype)
    if type.shape is None:
        return proto
    proto.tensor_type.shape.SetInParent()
    for dim in type.shape:
        size = proto.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            size.dim_value = dim
        elif dim is not None:
            size.dim_param = dim
    return proto


def type_of(proto: onnx.TypeProto) -> Type | None:
    """The type that a `TypeProto` describes; None if it is empty."""
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        tensor = proto.tensor_type
        if not tensor.HasField("shape"):
            return TensorType(DType(tensor.elem_type)) if tensor.elem_type else None
        return TensorType(
            DType(tensor.elem_type),
            tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else _OPEN.get(d.dim_param, d.dim_param)
                for d in tensor.shape.dim
            ),
        )
    if kind == "sequence_type":
        return SequenceType(type_of(proto.sequence_type.elem_type))
    if kind == "optional_type":
        return OptionalType(type_of(proto.optional_type.elem_type))
    return None if kind is None else OtherType(proto.SerializeToString())


_OPEN: dict[str, None] = {"": None, "?": None}
"""Symbols that exporters write for unknown sizes; two sizes with the same such symbol need not be equal."""


def tensor_proto(constant: Constant, name: str = "") -> onnx.TensorProto:
    """A `TensorProto` with the constant's values; meant for small ones."""
    import onnx

    array = constant.array()
    if constant.dtype is DType.STRING or constant.dtype.bits < 8:
        return onnx.helper.make_tensor(name, int(constant.dtype), constant.shape, array.ravel().tolist())
    data = np.ascontiguousarray(array).tobytes()
    return onnx.helper.make_tensor(name, int(constant.dtype), constant.shape, data, raw=True)


def write_attributes(proto: onnx.NodeProto, node: Node) -> bool:
    """Add the node's attributes to the proto; False where one is a nested graph or opaque."""
    for name, value in node.attrs.items():
        attribute = _attribute(name, value)
        if attribute is None:
            return False
        proto.attribute.append(attribute)
    return True


def _attribute(name: str, value: Any) -> onnx.AttributeProto | None:
    import onnx

    if isinstance(value, Constant):
        return onnx.helper.make_attribute(name, tensor_proto(value))
    if isinstance(value, Opaque) or not isinstance(value, (int, float, str, tuple)):
        return None
    if isinstance(value, tuple) and not all(isinstance(v, (int, float, str)) for v in value):
        return None
    if value == ():
        return onnx.helper.make_attribute(name, [], attr_type=onnx.AttributeProto.INTS)
    return onnx.helper.make_attribute(name, value)


def nested_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    graphs = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        graphs += attribute.graphs
    return graphs


def walk_protos(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes in order, each before the nodes of the graphs nested in it."""
    for node in nodes:
        yield node
        for graph in nested_graphs(node):
            yield from walk_protos(graph.node)


def initializers_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of a graph and of all graphs nested in it."""
    yield from graph.initializer
    for node in graph.node:
        for nested in nested_graphs(node):
            yield from initializers_of(nested)
