"""Whether onnxruntime's CPU provider implements an operator, tested by opening a session of that one node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir import DType, Node, TensorType, Value
from ..machine.sessions import open_session, session_options
from .protos import tensor_proto, type_proto, write_attributes
from .schemas import schema_of, version_for

_ESTABLISHED = 17
"""onnxruntime implements ONNX's own operators up to this opset in single precision; later ones are tested."""

_IR_VERSION = 10  # what every supported onnxruntime reads; single nodes need nothing newer
_TESTED: dict[tuple[Any, ...], bool] = {}


def is_implemented(node: Node, opsets: Mapping[str, int]) -> bool:
    """Whether onnxruntime's CPU provider runs `node` with operands of its element types.

    About a millisecond for the first node of a kind, then a look-up. Operators that every release implements in single
    precision are not tested.
    """
    if _is_established(node, opsets):
        return True
    types = tuple(
        None if v is None else v.type.dtype if isinstance(v.type, TensorType) else v.type for v in node.inputs
    )
    key = (node.op, tuple(sorted(opsets.items())), types, len(node.outputs), tuple(sorted(node.attrs)))
    if key not in _TESTED:
        _TESTED[key] = _runs(node, opsets)
    return _TESTED[key]


def _is_established(node: Node, opsets: Mapping[str, int]) -> bool:
    if node.domain or node.subgraphs:
        return not node.domain
    known = schema_of(node.op, version_for(node, opsets))
    if known is None or known.since_version > _ESTABLISHED:
        return False
    return not any(_is_rare(value) for value in node.inputs)


def _is_rare(value: Value | None) -> bool:
    type = None if value is None else value.type
    return isinstance(type, TensorType) and type.dtype.is_float and type.dtype is not DType.FLOAT


def _runs(node: Node, opsets: Mapping[str, int]) -> bool:
    import onnx

    graph = onnx.GraphProto(name="kernel")
    proto = graph.node.add(op_type=node.op_type, domain=node.domain)
    for slot, value in enumerate(node.inputs):
        proto.input.append("" if value is None else f"i{slot}")
        if value is None or value.type is None:
            continue
        if value.constant is not None and value.constant.size <= 64:
            graph.initializer.append(tensor_proto(value.constant, f"i{slot}"))
        else:
            graph.input.append(onnx.ValueInfoProto(name=f"i{slot}", type=type_proto(value.type)))
    for out in node.outputs:
        proto.output.append(f"o{out.index}")
        graph.output.append(onnx.ValueInfoProto(name=f"o{out.index}"))
    if not write_attributes(proto, node):
        return False
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.ModelProto(ir_version=_IR_VERSION, graph=graph, opset_import=imports)
    try:
        open_session(model.SerializeToString(), session_options())
    except Exception:  # onnxruntime's exceptions share no base class
        return False
    return True
