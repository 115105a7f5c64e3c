"""Types of one node's outputs, by ONNX's own shape inference (`onnx.shape_inference.infer_node_outputs`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..ir import Constant, Dim, DType, Graph, Node, TensorType, Type, refine
from .contrib import contrib_types, has_contrib_types
from .protos import tensor_proto, type_of, type_proto, write_attributes
from .schemas import schema
from .sizes import reshaped

if TYPE_CHECKING:
    import onnx

_SHAPE_DATA, _SCALE_DATA = 1024, 16
"""Elements of the largest integer and float operands that shape inference reads; usually one element for each axis."""
_BY_SCALE = frozenset(("Resize", "Upsample", "Range"))  # the operators that compute shapes from floats
_CACHED = 8192
"""The most nodes whose types are cached; beyond, the cache is cleared."""
_SAME_TYPE = frozenset(
    (
        "Identity", "Relu", "Sigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Log", "Neg", "Abs", "Softmax", "LeakyRelu",
        "Clip", "HardSigmoid", "HardSwish", "Elu", "Selu", "Softplus", "Floor", "Ceil", "Round", "Reciprocal", "Not",
    )
)  # fmt: skip
_SAME_SHAPE: Mapping[str, DType | None] = {
    "ai.onnx.ml::Scaler": DType.FLOAT, "ai.onnx.ml::Normalizer": DType.FLOAT, "ai.onnx.ml::Imputer": None,
    "ai.onnx.ml::Binarizer": None,
}  # fmt: skip
"""Operators whose results ONNX leaves untyped, by the result's element type; None for the operand's."""


def is_typed_here(node: Node) -> bool:
    """`infer` knows the operator, and ONNX's inference of whole models does not."""
    return node.op in _SAME_SHAPE or has_contrib_types(node)


def infer(node: Node, opsets: Mapping[str, int] | None = None) -> tuple[Type | None, ...]:
    """The types of a node's outputs as ONNX infers them; unknown parts are taken from the types they have.

    About 30 µs a node. Never raises: a node without schema, or one that inference rejects, keeps its types.
    """
    if node.op in _SAME_TYPE and len(node.outputs) == 1 and node.inputs and node.inputs[0] is not None:
        known = node.inputs[0].type
        return (refine(known, node.output.type) if known is not None else node.output.type,)
    if node.op in _SAME_SHAPE and node.inputs and node.inputs[0] is not None:
        given = node.inputs[0].type
        if isinstance(given, TensorType):
            return (refine(TensorType(_SAME_SHAPE[node.op] or given.dtype, given.shape), node.output.type),)
    inferred: Sequence[Type | None] | None
    if node.op == "Reshape" and len(node.inputs) == 2:
        inferred = [_reshape_type(node)]
    else:
        inferred = contrib_types(node) if has_contrib_types(node) else _infer(node, opsets)
    if inferred is None:
        return tuple(value.type for value in node.outputs)
    return tuple(refine(new, value.type) for new, value in zip(inferred, node.outputs))


def _reshape_type(node: Node) -> Type | None:
    """The type of a Reshape. ONNX computes the size at -1 from numbers only; here symbolic sizes cancel, too."""
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


def type_body_inputs(node: Node) -> None:
    """Set the types of what the body of a Scan or Loop takes, of which a file need not tell any, from the operands.

    A Scan's state keeps its shape, and of a scanned operand the body takes one slice (ONNX, from opset 9). What a Loop
    hands on may change its shape at each step: only its element type follows.
    """
    body = node.attrs.get("body")
    if node.op not in ("Scan", "Loop") or not isinstance(body, Graph) or len(body.inputs) != len(node.inputs):
        return  # another number is that of the Scan of opset 8
    for slot, (inner, value) in enumerate(zip(body.inputs, node.inputs)):
        kind = None if value is None else value.type
        if node.op == "Loop":
            dtype = _OF_STEP[slot] if slot < len(_OF_STEP) else getattr(kind, "dtype", None)
            kind = None if dtype is None else TensorType(dtype)
        elif isinstance(kind, TensorType) and kind.shape is not None:
            kind = TensorType(kind.dtype, _slice_of(kind.shape, node, slot))
        inner.type = refine(inner.type, kind)


_OF_STEP = DType.INT64, DType.BOOL
"""What the body of a Loop takes first: the number of the step, and the condition."""


def _slice_of(shape: tuple[Dim, ...], scan: Node, slot: int) -> tuple[Dim, ...]:
    """The shape in which the body of a Scan takes an operand of this shape."""
    given = int(scan.attrs["num_scan_inputs"])
    place = slot - (len(scan.inputs) - given)
    if place < 0 or not shape:
        return shape
    axis = int((scan.attrs.get("scan_input_axes") or (0,) * given)[place]) % len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


_Types = tuple["Type | None", ...]
_MISSING: _Types = ()
_cache: dict[Hashable, _Types | None] = {}


def _infer(node: Node, opsets: Mapping[str, int] | None) -> _Types | None:
    """The types by ONNX, through a cache: networks repeat their layers, and passes infer again and again."""
    if opsets is None:
        opsets = {} if node.graph is None else node.graph.opsets
    known = schema(node, opsets)
    if known is None or node._nested:
        return None
    key = _key(node, opsets)
    if key is None:
        return _infer_uncached(known, node, opsets)
    types = _cache.get(key, _MISSING)
    if types is _MISSING:
        if len(_cache) >= _CACHED:
            _cache.clear()
        types = _cache[key] = _infer_uncached(known, node, opsets)
    return types


def _key(node: Node, opsets: Mapping[str, int]) -> Hashable | None:
    """The cache key: all that the output types depend on; None where an attribute is a tensor or a graph."""
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
    """Whether the shapes of the node's outputs may depend on the elements of a constant operand."""
    if constant.dtype.is_integer:
        return constant.size <= _SHAPE_DATA
    return node.op in _BY_SCALE and constant.size <= _SCALE_DATA and constant.dtype is not DType.STRING


def _infer_uncached(known: onnx.defs.OpSchema, node: Node, opsets: Mapping[str, int]) -> _Types | None:
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
    if not write_attributes(proto, node):
        return None
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]
    try:
        outputs = onnx.shape_inference.infer_node_outputs(known, proto, types, data, opset_imports=imports)
    except Exception:  # InferenceError, ValidationError or RuntimeError: types unknown
        return None
    return tuple(type_of(outputs[f"o{i}"]) if f"o{i}" in outputs else None for i in range(len(node.outputs)))
