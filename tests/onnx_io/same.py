"""Whether two files say the same model: names of inner values, order, and where constants sit do not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.ops import nested_graphs

Proto = Any


def assert_same_model(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """AssertionError, naming the part, unless `b` keeps everything that `a` says of its computation and its texts."""
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(a, name) == getattr(b, name), name
    assert _opsets(a.opset_import) == _opsets(b.opset_import), "opset_import"
    for name in ("metadata_props", "training_info", "configuration"):
        assert _messages(getattr(a, name)) == _messages(getattr(b, name)), name
    with_types = onnx.ModelProto()
    with_types.CopyFrom(a)
    _add_types(with_types.graph.output, b.graph.output)  # ONNX asks for a type there: emitting adds what is known
    _add_body_types(with_types.graph.node, b.graph.node)
    _same(_graph(with_types.graph, {}, root=True), _graph(b.graph, {}, root=True), "graph")
    assert len(a.functions) == len(b.functions), "functions"
    for f, g in zip(a.functions, b.functions):
        _same(_function(f), _function(g), f"function {f.name}")


def _add_types(old: Proto, new: Proto) -> None:
    """Types of `new` where `old` declares none, or no shape."""
    for a, b in zip(old, new):
        if not a.type.WhichOneof("value") or (
            a.type.HasField("tensor_type")
            and not a.type.tensor_type.HasField("shape")
            and a.type.tensor_type.elem_type in (0, b.type.tensor_type.elem_type)
        ):
            a.type.CopyFrom(b.type)


def _add_body_types(old: Proto, new: Proto) -> None:
    """The same for what bodies of Loop and Scan take and give, at any depth: files may leave it out."""
    bodies = [[graph for node in nodes for graph in nested_graphs(node)] for nodes in (old, new)]
    for inside, found in zip(*bodies):
        _add_types(inside.input, found.input)
        _add_types(inside.output, found.output)
        _add_body_types(inside.node, found.node)


def _same(a: Any, b: Any, place: str) -> None:
    """Compare part by part, so that a difference is named."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), f"{place}: {sorted(map(str, a.keys() ^ b.keys()))}"
        for key in a:
            _same(a[key], b[key], f"{place}.{key}")
        return
    assert a == b, f"{place}: {str(a)[:300]} became {str(b)[:300]}"


def _opsets(imports: Proto) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in imports}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _messages(protos: Proto) -> list[bytes]:
    return [proto.SerializeToString(deterministic=True) for proto in protos]


def _function(proto: onnx.FunctionProto) -> dict[str, Any]:
    names: dict[str, Any] = {name: ("in", i) for i, name in enumerate(proto.input)}
    body = _nodes(proto.node, names)
    return {
        "id": (proto.domain, proto.name, proto.overload, proto.doc_string),
        "ends": (list(proto.input), list(proto.output), list(proto.attribute)),
        "defaults": _messages(proto.attribute_proto),
        "opsets": _opsets(proto.opset_import),
        "metadata": _messages(proto.metadata_props),
        "results": [names[name] for name in proto.output],
        "nodes": Counter(body),
    }


def _graph(proto: onnx.GraphProto, outer: dict[str, Any], root: bool = False) -> dict[str, Any]:
    """A graph in a form without inner names: each value is the hash of what computes it."""
    names = {**outer, "": outer.get("", 0) + 1}  # "" names no value: the depth of nesting is kept there
    depth = names[""]
    listed = {t.name for t in proto.initializer}
    inputs = {v.name for v in proto.input}
    for i, info in enumerate(proto.input):
        names[info.name] = ("in", info.name if root else (depth, i))
    for tensor in proto.initializer:
        if tensor.name not in inputs:
            names[tensor.name] = _tensor(tensor)
    for sparse in proto.sparse_initializer:
        names[sparse.values.name] = _sparse(sparse)
    body = _nodes(proto.node, names)
    return {
        "texts": (proto.name, proto.doc_string, _messages(proto.metadata_props)),
        "inputs": [_info(v, root) for v in proto.input],
        "defaults": {t.name: _tensor(t) for t in proto.initializer if t.name in inputs and t.name in listed},
        "results": [names[v.name] for v in proto.output],
        "outputs": [_info(v, root) for v in proto.output],
        "annotations": _messages(proto.quantization_annotation),
        "nodes": Counter(body),
    }


def _info(info: onnx.ValueInfoProto, root: bool) -> tuple[Any, ...]:
    """Graph ends keep name and type; an open dimension says nothing, however it is written."""
    kind = onnx.TypeProto()
    kind.CopyFrom(info.type)
    for dim in kind.tensor_type.shape.dim if kind.HasField("tensor_type") else ():
        if dim.HasField("dim_param") and not dim.dim_param:
            dim.ClearField("dim_param")
    text = kind.SerializeToString(deterministic=True)
    return (info.name if root else "", text, info.doc_string, *_messages(info.metadata_props))


def _nodes(protos: Proto, names: dict[str, Any]) -> list[Any]:
    """Every node but constants and the identities that only name a result, in any order."""
    found = []
    for node in _sorted(protos, names):
        if node.op_type == "Constant" and not _domain(node.domain) and node.attribute[0].ref_attr_name == "":
            names[node.output[0]] = _constant(node)
            continue
        reads = tuple(names[name] if name else None for name in node.input)
        attributes = tuple(sorted((_attribute(a, names) for a in node.attribute), key=repr))
        devices = tuple(_messages(node.device_configurations))
        texts = (node.name, node.doc_string, tuple(_messages(node.metadata_props)), devices)
        key = (_domain(node.domain), node.op_type, node.overload, reads, attributes, texts)
        key = (node.op_type, hash(key))
        for i, name in enumerate(node.output):
            if name:
                names[name] = (key, i)
        found.append((key, tuple(bool(name) for name in node.output)))
    return found


def _sorted(protos: Proto, names: dict[str, Any]) -> Iterator[Any]:
    from graphopt.onnx_io.parts.order import in_order

    yield from in_order(protos, "graph")


def _attribute(proto: onnx.AttributeProto, names: dict[str, Any]) -> Any:
    if proto.type == onnx.AttributeProto.GRAPH:
        return proto.name, proto.doc_string, _frozen(_graph(proto.g, names))
    if proto.type == onnx.AttributeProto.GRAPHS:
        return proto.name, proto.doc_string, tuple(_frozen(_graph(g, names)) for g in proto.graphs)
    if proto.type == onnx.AttributeProto.TENSOR and not proto.ref_attr_name:
        return proto.name, proto.doc_string, _tensor(proto.t)
    return proto.SerializeToString(deterministic=True)


def _frozen(value: Any) -> Any:
    if isinstance(value, Counter):
        return tuple(sorted(value.items(), key=repr))
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in value.items())
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _tensor(proto: onnx.TensorProto) -> Any:
    array = numpy_helper.to_array(proto)
    data = tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()
    return ("constant", proto.data_type, array.shape, hash(data))


def _sparse(proto: onnx.SparseTensorProto) -> Any:
    return ("sparse", tuple(proto.dims), _tensor(proto.values), _tensor(proto.indices))


def _constant(node: onnx.NodeProto) -> Any:
    attribute = node.attribute[0]
    if attribute.name == "value":
        return _tensor(attribute.t)
    if attribute.name == "sparse_value":
        return _sparse(attribute.sparse_tensor)
    value = onnx.helper.get_attribute_value(attribute)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    array = np.array(value, kinds.get(attribute.name, object))
    if array.dtype == object:
        array = np.array([v.decode() for v in np.atleast_1d(array)], object).reshape(array.shape)
    return _tensor(numpy_helper.from_array(array))
