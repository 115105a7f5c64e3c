"""The operands and results of a node that may be float16, by its operator's schema; nodes that must stay float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...analysis.operands import MOVES, tensor_of
from ...errors import Declined
from ...ir import DType, Graph, Node, TensorType, Value
from ...ops import attr, schema

if TYPE_CHECKING:
    import onnx

HALF = "tensor(float16)"
_CODES = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))
_DRAWN = frozenset(("EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"))
_ORDERED = frozenset(("ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "Unique"))
"""Operators that select by order: half precision creates ties between neighbors."""
_COUNTED = frozenset(("Range", "CumSum", "Floor", "Ceil", "Round", "Mod", "NonZero"))
"""Operators that count or index with floats: float16 holds whole numbers up to 2,048 only."""
_SCATTERED = frozenset(("ScatterElements", "ScatterND"))
"""Operators whose reductions fail in onnxruntime when they run, not when they are loaded."""
_WORK = frozenset(
    (
        "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention", "Softmax",
        "LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
    )
)  # fmt: skip
"""Operators after which floats are no longer counts."""


@dataclass(frozen=True, slots=True)
class HalfSlots:
    """The slots of a node's float32 operands and results that are float16 once the node is."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def is_float(value: Value | None) -> bool:
    """The value is a float32 tensor."""
    type = tensor_of(value)
    return type is not None and type.dtype is DType.FLOAT


def touches_floats(node: Node) -> bool:
    """Whether the node has a float32 operand or result."""
    return any(map(is_float, node.inputs)) or any(map(is_float, node.outputs))


def half_slots(node: Node) -> HalfSlots:
    """The slots that change type with the node. Declined where the node has to stay float32."""
    if node.subgraphs:
        raise Declined("its body's inputs and results stay float32", node)
    if node.op in _CODES:
        raise Declined("its scale is float32", node)
    if node.op in _ORDERED:
        raise Declined("it chooses by order, and float16 makes ties", node)
    if node.op in _COUNTED:
        raise Declined("it counts, and float16 holds whole numbers up to 2,048 only", node)
    if node.op in _DRAWN:
        raise Declined("its result's type is an attribute", node)
    if node.op == "Transpose" and _moves_batch_into_product(node):
        raise Declined("onnxruntime 1.32 ends the process where it joins it with a product in float16", node)
    if node.op in _SCATTERED and attr(node, "reduction", "none") != "none":
        raise Declined("onnxruntime 1.32 reduces no float16 there", node)
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    if not all(isinstance(v.type, TensorType) for v in values):
        raise Declined("a value of it is no tensor, or of unknown type", node)
    if node.op == "Cast":
        return _of_cast(node)
    if node.op == "ConstantOfShape":
        return HalfSlots(frozenset(), frozenset((0,)) if is_float(node.output) else frozenset())
    known = schema(node)
    if known is None or node.domain:
        raise Declined("the operator is not ONNX's own", node)
    allowed = {c.type_param_str for c in known.type_constraints if HALF in c.allowed_type_strs}
    inputs = {slot for slot, v in enumerate(node.inputs) if is_float(v) and _type_of(known.inputs, slot) in allowed}
    bound = {_type_of(known.inputs, slot) for slot in inputs}
    outputs = {slot for slot, v in enumerate(node.outputs) if is_float(v) and _type_of(known.outputs, slot) in bound}
    if not inputs:
        raise Declined("the operator knows no float16", node)
    return HalfSlots(frozenset(inputs), frozenset(outputs))


def _moves_batch_into_product(node: Node) -> bool:
    """Whether the first axis becomes rows or columns of a MatMul, and the axes in between its batch: onnxruntime fuses
    the two (transBatchA), with a null pointer in float16."""
    perm = tuple(int(axis) for axis in attr(node, "perm") or ())
    last = len(perm) - 1
    is_batch = last > 1 and perm[:-2] == tuple(range(1, last)) and set(perm[-2:]) == {0, last}
    return is_batch and any(use.node.op == "MatMul" for use in node.output.uses)


def _type_of(parameters: Iterable[onnx.defs.OpSchema.FormalParameter], slot: int) -> str:
    """The type parameter of a slot; a variadic last one stands for all that follow."""
    listed = list(parameters)
    return str(listed[min(slot, len(listed) - 1)].type_str)


def _of_cast(node: Node) -> HalfSlots:
    target, given = DType(attr(node, "to")), tensor_of(node.inputs[0])
    if target is DType.FLOAT:
        return HalfSlots(frozenset((0,)) if is_float(node.inputs[0]) else frozenset(), frozenset((0,)))
    if given is not None and given.dtype is DType.FLOAT and not target.is_float:
        raise Declined("its result is no float: rounding first would change it", node)
    return HalfSlots(frozenset((0,)) if is_float(node.inputs[0]) else frozenset(), frozenset())


def counted(graph: Graph) -> Iterator[Node]:
    """Nodes that compute whole numbers, such as sizes and indices, in floats: those that feed a Cast to integers or a
    counting operator, through cheap operators only."""
    queue = [v for node in graph.walk() if _takes_counts(node) for v in node.inputs if is_float(v)]
    queue += [v for node in graph.walk() if node.op in ("Resize", "Upsample") for v in node.inputs[1:] if is_float(v)]
    seen: set[Node] = set()
    while queue:
        value = queue.pop()
        node = None if value is None else value.producer
        if node is None or node in seen or node.op in _WORK or node.subgraphs:
            continue
        seen.add(node)
        yield node
        queue.extend(v for v in (node.inputs[:1] if node.op in MOVES and node.op != "Concat" else node.inputs))


def _takes_counts(node: Node) -> bool:
    if node.op == "Cast":
        return is_float(node.inputs[0]) and DType(attr(node, "to")).is_integer
    return node.op in _COUNTED
