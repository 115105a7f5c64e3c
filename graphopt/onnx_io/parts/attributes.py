"""Reading and writing of attributes. One without a plain Python form is carried as its proto."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import onnx

from ...ir import Constant, Graph, Opaque
from ...ops import schema_of
from .tensors import DataFiles, read_constant, write_tensor

_A = onnx.AttributeProto
_FLOAT, _INT, _STRING, _TENSOR, _GRAPH = _A.FLOAT, _A.INT, _A.STRING, _A.TENSOR, _A.GRAPH
_FLOATS, _INTS, _STRINGS, _TENSORS, _GRAPHS = _A.FLOATS, _A.INTS, _A.STRINGS, _A.TENSORS, _A.GRAPHS
_FIELDS = (
    ("f", _FLOAT), ("i", _INT), ("s", _STRING), ("t", _TENSOR), ("g", _GRAPH), ("floats", _FLOATS), ("ints", _INTS),
    ("strings", _STRINGS), ("tensors", _TENSORS), ("graphs", _GRAPHS),
)  # fmt: skip


def read_attribute(
    proto: onnx.AttributeProto, op: str, version: int, files: DataFiles, place: str,
    nested: Callable[[onnx.GraphProto], Graph],
) -> Any:  # fmt: skip
    """The value of an attribute: int, float, str, Constant, Graph, a tuple of one of these, or Opaque."""
    kind = proto.type or _kind_of(proto)
    if proto.ref_attr_name:
        return Opaque(proto)
    if kind == _INT:
        return proto.i
    if kind == _INTS:
        return tuple(proto.ints) or _empty(proto, op, version)
    if kind == _FLOAT:
        return proto.f
    if kind == _STRING:
        try:
            return proto.s.decode()
        except UnicodeDecodeError:
            return Opaque(proto)
    if kind == _TENSOR:
        return read_constant(proto.t, files, f"{place} attribute {proto.name!r}")
    if kind == _GRAPH:
        return nested(proto.g)
    if kind == _FLOATS:
        return tuple(proto.floats) or _empty(proto, op, version)
    if kind == _STRINGS:
        try:
            return tuple(s.decode() for s in proto.strings) or _empty(proto, op, version)
        except UnicodeDecodeError:
            return Opaque(proto)
    if kind == _TENSORS and proto.tensors:
        return tuple(read_constant(t, files, f"{place} attribute {proto.name!r}") for t in proto.tensors)
    if kind == _GRAPHS and proto.graphs:
        return tuple(nested(g) for g in proto.graphs)
    return Opaque(proto)


def _kind_of(proto: onnx.AttributeProto) -> int:
    """The type of an attribute of IR version 1, which had no type field: given by the field that is set."""
    for name, kind in _FIELDS:
        value = getattr(proto, name)
        if (proto.HasField(name) if len(name) == 1 else len(value)):  # fmt: skip
            return int(kind)
    return 0


def _empty(proto: onnx.AttributeProto, op: str, version: int) -> Any:
    """The value of an empty list: () if the operator's schema declares its type, for emission; else the proto."""
    return () if attribute_kind(op, version, proto.name) == proto.type else Opaque(proto)


@lru_cache(maxsize=4096)
def attribute_kind(op: str, version: int, name: str) -> int:
    """The `AttributeProto` type that the operator's schema declares; 0 if unknown."""
    known = schema_of(op, version) if version else None
    declared = None if known is None else known.attributes.get(name)
    return 0 if declared is None else int(declared.type.value)  # type: ignore[attr-defined]


def write_attribute(
    proto: onnx.AttributeProto, name: str, value: Any, op: str, version: int,
    nested: Callable[[Graph, onnx.GraphProto], None],
) -> None:  # fmt: skip
    """Fill an empty `AttributeProto`. TypeError for a value that no attribute can have."""
    if isinstance(value, Opaque):
        proto.CopyFrom(value.raw)
        proto.name = name
        return
    proto.name = name
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) or attribute_kind(op, version, name) == _FLOAT:
            proto.type, proto.f = _FLOAT, value
        else:
            proto.type, proto.i = _INT, int(value)
    elif isinstance(value, bool):
        proto.type, proto.i = _INT, int(value)
    elif isinstance(value, str):
        proto.type, proto.s = _STRING, value.encode()
    elif isinstance(value, Constant):
        proto.type = _TENSOR
        write_tensor(proto.t, value, _tensor_name(value))
    elif isinstance(value, Graph):
        proto.type = _GRAPH
        nested(value, proto.g)
    elif isinstance(value, tuple):
        _write_list(proto, value, op, version, nested)
    else:
        raise TypeError(f"{op} attribute {name!r}: {type(value).__name__} is no attribute value")


def _write_list(
    proto: onnx.AttributeProto, values: tuple[Any, ...], op: str, version: int,
    nested: Callable[[Graph, onnx.GraphProto], None],
) -> None:  # fmt: skip
    first = values[0] if values else None
    kind = attribute_kind(op, version, proto.name)
    if first is None:
        proto.type = kind or _INTS  # type: ignore[assignment]
    elif isinstance(first, str):
        proto.type = _STRINGS
        proto.strings.extend(v.encode() for v in values)
    elif isinstance(first, Constant):
        proto.type = _TENSORS
        for constant in values:
            write_tensor(proto.tensors.add(), constant, _tensor_name(constant))
    elif isinstance(first, Graph):
        proto.type = _GRAPHS
        for graph in values:
            nested(graph, proto.graphs.add())
    elif kind == _FLOATS or any(isinstance(v, float) for v in values):
        proto.type = _FLOATS
        proto.floats.extend(values)
    else:
        proto.type = _INTS
        proto.ints.extend(values)


def _tensor_name(constant: Constant) -> str:
    return getattr(constant.source, "name", None) or ""
