"""The longest sequence of a language model: the rows of its position tables."""

from __future__ import annotations

from ..ir import Graph, Node, Value

_TABLES = {
    "com.microsoft::RotaryEmbedding": 2,
    "com.microsoft::GroupQueryAttention": 7,
    "com.microsoft::GemmaRotaryEmbedding": 3,
    "RotaryEmbedding": 1,
}
"""The slot of the table of cosines, [positions, …], of operators that look up positions."""

_PLAIN = frozenset(("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Slice", "Mul"))
"""Operators that pass positions on; Mul clears positions of padding by a mask, its other operand."""

_DEPTH = 24
"""The most operators followed from a Gather back to the origin of its positions: a bound, not tuned."""


def position_limit(graph: Graph) -> int | None:
    """The most tokens, earlier ones included, that all position tables of the graph hold; None without such tables.

    A position table is a constant indexed by the input `position_ids`, sums along a mask, or a Range. Tables indexed by
    positions computed otherwise are not found.
    """
    limits = [limit for node in graph if (limit := _rows(node)) is not None]
    return min(limits, default=None)


def _rows(node: Node) -> int | None:
    if node.op in _TABLES:
        table = node.constant(_TABLES[node.op])
        return table.shape[0] if table is not None and len(table.shape) == 2 else None
    table = node.constant(0) if node.op == "Gather" else None
    if table is None or len(table.shape) != 2 or node.attrs.get("axis", 0) != 0:
        return None
    first = _first_position(node.inputs[1], _DEPTH)
    return None if first is None else table.shape[0] - first


def _first_position(value: Value | None, depth: int) -> int | None:
    """The position of a sequence's first token, usually 0; None where `value` holds no positions."""
    node = None if value is None else value.producer
    if value is None or depth == 0:
        return None
    if node is None:
        return 0 if value.name == "position_ids" else None
    if node.op == "CumSum":
        return 1
    if node.op == "Range":
        start = node.constant(0)
        return 0 if start is None else int(start.array().reshape(()))
    if node.op in ("Add", "Sub"):
        for slot in (0, 1) if node.op == "Add" else (0,):
            other = node.constant(1 - slot)
            if other is not None and other.size == 1:
                first = _first_position(node.inputs[slot], depth - 1)
                shift = int(other.array().reshape(()))
                return None if first is None else first + (shift if node.op == "Add" else -shift)
        return None
    if node.op in _PLAIN:
        for operand in node.inputs[: 2 if node.op == "Mul" else 1]:
            first = _first_position(operand, depth - 1)
            if first is not None:
                return first
    return None
