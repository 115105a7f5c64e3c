"""Facts about a node's operands: types and shapes, constant integers such as axes, which operands are only moved."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir import Array, Dim, Node, TensorType, Value

SMALL = 4096
"""Elements of the largest constant that passes read, as each visit of its node decodes it."""

TO_END = 2**31 - 1
"""The end of a Slice "to the end" is at least this: exporters write the largest integer of 32 or 64 bits."""

POINTWISE = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Erf", "Cast", "LeakyRelu", "Elu", "HardSigmoid",
    "HardSwish", "Softplus", "Reciprocal", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "Sign", "Identity",
)  # fmt: skip
"""Operators that compute each element of the result from one element of their only operand."""

MOVES = frozenset(
    (
        "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Concat", "Expand", "Gather", "Identity",
        "Tile", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth",
    )
)  # fmt: skip
"""Operators that copy elements from one place to another, whatever their type."""


def moved(node: Node) -> tuple[Value | None, ...]:
    """The operands whose elements an operator of `MOVES` copies; its other operands are sizes and indices."""
    return node.inputs if node.op == "Concat" else node.inputs[:1]


def tensor_of(value: Value | None) -> TensorType | None:
    """The tensor type of a value."""
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def shape_of(value: Value | None) -> tuple[Dim, ...] | None:
    """The shape of a value, None where even its rank is unknown."""
    type = tensor_of(value)
    return None if type is None else type.shape


def small_array(node: Node, slot: int) -> Array | None:
    """The constant at input `slot`, if there is one of at most `SMALL` elements."""
    constant = node.constant(slot)
    return constant.array() if constant is not None and constant.size <= SMALL else None


def integers(node: Node, slot: int, name: str) -> list[int] | None:
    """Integers that newer opsets take as input `slot` and older ones as attribute `name`; None if absent or unknown."""
    if name in node.attrs:
        return list(node.attrs[name])
    array = small_array(node, slot)
    return None if array is None else [int(v) for v in array.reshape(-1)]


def axis_of(number: int, rank: int | None) -> int | None:
    """An axis counted from the front; None for a negative number where the rank is unknown."""
    if number >= 0:
        return number
    return None if rank is None else number + rank


def is_replaceable(result: Value, operand: Value) -> bool:
    """Whether replacing `result` by `operand` saves a node: a graph's result may need a node to carry its name."""
    if not result.is_result:
        return True
    computed_here = operand.producer is not None and operand.graph is result.graph
    return computed_here and not operand.is_result and operand.constant is None


def ancestors(values: Iterable[Value]) -> list[Node]:
    """The nodes that compute values, directly or through the operands of other nodes, each once."""
    found: dict[Node, None] = {}
    waiting = [value.producer for value in values]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [value.producer for value in node.inputs if value is not None]
    return list(found)
