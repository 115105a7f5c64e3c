"""Evaluation of constant parts of a graph by onnxruntime, with its optimizations off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir import Array, Constant, DType, Graph, Node, TensorType, Type, Value
from ..machine.sessions import open_session, session_options
from ..ops import tensor_proto, type_proto, write_attributes

if TYPE_CHECKING:
    import onnx

Piece = tuple[Sequence[Node], Sequence[Value]]
"""Nodes in execution order, and the outputs to return."""

_EMBED = 1024  # elements from which a constant is fed instead of embedded, which avoids a copy
_IR_VERSION = 10  # of the evaluated models
_PLAIN = frozenset(
    (
        DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BOOL, DType.INT8, DType.INT16, DType.INT32, DType.INT64,
        DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64,
    )
)  # fmt: skip


def is_plain(type: Type | None) -> bool:
    """Whether the type is a tensor of a numpy element type, which onnxruntime can take and return."""
    return isinstance(type, TensorType) and type.dtype in _PLAIN


def evaluate(graph: Graph, pieces: Sequence[Piece], known: Mapping[Value, Constant]) -> dict[Value, Array]:
    """The outputs of the pieces as arrays, given `known` values.

    A piece that onnxruntime refuses is evaluated node by node, and all values that could be computed are returned.
    """
    arrays: dict[Value, Array] = {}
    batch: list[Piece] = []
    for nodes, results in pieces:
        arrays.update({value: known[value].array() for value in results if value in known})
        rest = [value for value in results if value not in known]
        if rest:
            batch.append((nodes, rest))
    if not batch:
        return arrays
    try:
        return {**arrays, **_run(graph, [n for p in batch for n in p[0]], [v for p in batch for v in p[1]], known)}
    except Exception:  # onnxruntime's exceptions share no base; the pieces are tried one by one
        for nodes, results in batch:
            arrays.update(_one(graph, nodes, results, known, alone=len(batch) == 1))
        return arrays


def _one(
    graph: Graph, nodes: Sequence[Node], results: Sequence[Value], known: Mapping[Value, Constant], alone: bool
) -> dict[Value, Array]:
    if not alone:
        try:
            return _run(graph, nodes, results, known)
        except Exception:  # as above; the nodes are tried one by one
            pass
    values = dict(known)
    arrays: dict[Value, Array] = {}
    for node in nodes:
        ready = all(v is None or v.constant is not None or v in values for v in node.inputs)
        if not ready or node.output in known:
            continue
        try:
            outputs = _run(graph, [node], node.outputs, values)
        except Exception:  # onnxruntime cannot run this node: it stays
            continue
        arrays.update(outputs)
        values.update({value: Constant.of(array) for value, array in outputs.items()})
    return arrays


def _run(
    graph: Graph, nodes: Iterable[Node], results: Sequence[Value], known: Mapping[Value, Constant]
) -> dict[Value, Array]:
    model, feeds = _model(graph, nodes, results, known)
    session = open_session(model.SerializeToString(), session_options(optimize=False))
    return dict(zip(results, session.run(None, feeds)))


def _model(
    graph: Graph, nodes: Iterable[Node], results: Sequence[Value], known: Mapping[Value, Constant]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    import onnx

    names: dict[Value, str] = {}
    feeds: dict[str, Array] = {}
    proto = onnx.GraphProto(name="constants")

    def read(value: Value | None) -> str:
        if value is None:
            return ""
        name = names.get(value)
        if name is not None:
            return name
        name = names[value] = f"v{len(names)}"
        constant = known.get(value) or value.constant
        if constant is None:
            raise KeyError(f"{value!r} is not constant")
        if constant.size > _EMBED and constant.dtype in _PLAIN:
            proto.input.append(onnx.ValueInfoProto(name=name, type=type_proto(constant.type)))
            feeds[name] = np.ascontiguousarray(constant.array())
        else:
            proto.initializer.append(tensor_proto(constant, name))
        return name

    for node in nodes:
        if node.output in known:
            continue
        added = proto.node.add(op_type=node.op_type, domain=node.domain)
        added.input.extend(read(value) for value in node.inputs)
        if not write_attributes(added, node):
            raise ValueError(f"{node!r} has an attribute that cannot be written")
        for out in node.outputs:
            names[out] = f"v{len(names)}"
            added.output.append(names[out])
    for value in results:
        proto.output.append(onnx.ValueInfoProto(name=names[value], type=type_proto(TensorType(_dtype(value)))))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in graph.opsets.items() if domain == ""]
    return onnx.ModelProto(ir_version=_IR_VERSION, graph=proto, opset_import=imports), feeds


def _dtype(value: Value) -> DType:
    if not isinstance(value.type, TensorType):
        raise TypeError(f"{value!r} is not a tensor")
    return value.type.dtype
