"""Types of one node's outputs, by ONNX's own shape inference (`onnx.shape_inference.infer_node_outputs`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import Constant, DType, Node, Opaque, OptionalType, OtherType, SequenceType, TensorType, Type, refine
from .schemas import schema
from .sizes import reshaped

if TYPE_CHECKING:
    import onnx

_SHAPE_DATA, _SCALE_DATA = 1024, 16  # integers, and floats, of up to this many elements may decide a shape
_BY_SCALE = frozenset(("Resize", "Upsample", "Range"))  # operators whose shapes floats decide
_REMEMBERED = 8192
_SAME_TYPE = frozenset(
    (
        "Identity", "Relu", "Sigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Log", "Neg", "Abs", "Softmax", "LeakyRelu",
        "Clip", "HardSigmoid", "HardSwish", "Elu", "Selu", "Softplus", "Floor", "Ceil", "Round", "Reciprocal", "Not",
    )
)  # fmt: skip


def infer(node: Node, opsets: Mapping[str, int] | None = None) -> tuple[Type | None, ...]:
    """The types of a node's outputs, as far as ONNX can tell; keeps what was known before.

    About 30 µs a node. Never raises: an operator without schema, or one that inference rejects, keeps its types.
    """
    if node.op in _SAME_TYPE and len(node.outputs) == 1 and node.inputs and node.inputs[0] is not None:
        known = node.inputs[0].type
        return (refine(known, node.output.type) if known is not None else node.output.type,)
    found = [_reshape_type(node)] if node.op == "Reshape" and len(node.inputs) == 2 else _infer(node, opsets)
    if found is None:
        return tuple(value.type for value in node.outputs)
    return tuple(refine(new, value.type) for new, value in zip(found, node.outputs))


def _reshape_type(node: Node) -> Type | None:
    """ONNX finds the size at -1 among numbers only; here names of sizes cancel too."""
    given, sizes = node.inputs
    if given is None or sizes is None or not isinstance(given.type, TensorType):
        return None
    if sizes.constant is not None and len(sizes.constant.shape) == 1:
        wanted = [int(v) for v in sizes.constant.array()]
        return TensorType(given.type.dtype, reshaped(given.type.shape, wanted, bool(node.attrs.get("allowzero", 0))))
    rank = sizes.type.size if isinstance(sizes.type, TensorType) and sizes.type.rank == 1 else None
    return TensorType(given.type.dtype, None if rank is None else (None,) * rank)


def update_types(node: Node) -> bool:
    """Infer and store the types of a node's outputs; True if any became more precise or changed."""
    changed = False
    for value, new in zip(node.outputs, infer(node)):
        if new != value.type:
            value.type, changed = new, True
    return changed


_Types = tuple["Type | None", ...]
_UNASKED: _Types = ()
_memory: dict[Hashable, _Types | None] = {}


def _infer(node: Node, opsets: Mapping[str, int] | None) -> _Types | None:
    """ONNX's answer; the same question is asked once, as networks repeat themselves and passes look again."""
    if opsets is None:
        opsets = {} if node.graph is None else node.graph.opsets
    known = schema(node, opsets)
    if known is None or node._nested:
        return None
    question = _question(node, opsets)
    if question is None:
        return _ask(known, node, opsets)
    answer = _memory.get(question, _UNASKED)
    if answer is _UNASKED:
        if len(_memory) >= _REMEMBERED:
            _memory.clear()
        answer = _memory[question] = _ask(known, node, opsets)
    return answer


def _question(node: Node, opsets: Mapping[str, int]) -> Hashable | None:
    """All that the types of a node's outputs depend on; None if it is too much to compare."""
    inputs: list[Hashable] = []
    for value in node.inputs:
        constant = None if value is None else value.constant
        data = constant.array().tobytes() if constant is not None and _decides(constant, node) else None
        inputs.append((None if value is None else value.type, data))
    attrs: list[Hashable] = []
    for name, value in node.attrs.items():
        if not isinstance(value, (int, float, str, tuple)):
            return None
        attrs.append((name, type(value), value))
    versions = opsets.get(node.domain), opsets.get("")
    return node.op, versions, tuple(inputs), tuple(attrs), len(node.outputs)


def _decides(constant: Constant, node: Node) -> bool:
    """Whether a constant is of a kind that the shapes of its user are computed from."""
    if constant.dtype.is_integer:
        return constant.size <= _SHAPE_DATA
    return node.op in _BY_SCALE and constant.size <= _SCALE_DATA and constant.dtype is not DType.STRING


def _ask(known: onnx.defs.OpSchema, node: Node, opsets: Mapping[str, int]) -> _Types | None:
    import onnx

    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for slot, value in enumerate(node.inputs):
        if value is None:
            proto.input.append("")
            continue
        if value.type is None:
            return None
        name = f"i{slot}"
        proto.input.append(name)
        types[name] = type_proto(value.type)
        if value.constant is not None and _decides(value.constant, node):
            data[name] = tensor_proto(value.constant)
    proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
    for name, attribute in node.attrs.items():
        made = attribute_proto(name, attribute)
        if made is None:
            return None
        proto.attribute.append(made)
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]
    try:
        outputs = onnx.shape_inference.infer_node_outputs(known, proto, types, data, opset_imports=imports)
    except Exception:  # onnx raises its own InferenceError, ValidationError or RuntimeError; all mean "cannot tell"
        return None
    return tuple(type_of(outputs[f"o{i}"]) if f"o{i}" in outputs else None for i in range(len(node.outputs)))


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
        made = proto.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            made.dim_value = dim
        elif dim is not None:
            made.dim_param = dim
    return proto


def type_of(proto: onnx.TypeProto) -> Type | None:
    """The type a `TypeProto` describes; None if it says nothing."""
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
"""Symbols that exporters write for any size: that two sizes bear one does not make them equal."""


def tensor_proto(constant: Constant, name: str = "") -> onnx.TensorProto:
    """A `TensorProto` with the constant's values; meant for small ones."""
    import onnx

    array = constant.array()
    if constant.dtype is DType.STRING or constant.dtype.bits < 8:
        return onnx.helper.make_tensor(name, int(constant.dtype), constant.shape, array.ravel().tolist())
    data = np.ascontiguousarray(array).tobytes()
    return onnx.helper.make_tensor(name, int(constant.dtype), constant.shape, data, raw=True)


def attribute_proto(name: str, value: Any) -> onnx.AttributeProto | None:
    """The `AttributeProto` of a plain attribute; None for nested graphs and what graphopt only carries."""
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
