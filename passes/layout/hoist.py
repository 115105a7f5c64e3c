"""An operator that follows every output of a Split moves before the Split: one operator in place of several."""

from __future__ import annotations

from typing import Any

from ...analysis.operands import POINTWISE, shape_of
from ...ir import Graph, Node, TensorType
from ...pipeline.passes import graph_pass
from ...rewrite import Context, origins_of

_WITH_NUMBER = frozenset(("Pow", "Mul", "Add", "Sub", "Div", "Max", "Min", "Clip"))
"""Operators that act element by element on their first operand, if the others are single constant numbers."""


@graph_pass("hoist-over-split")
def hoist_over_split(graph: Graph, context: Context) -> int:
    """f(a), f(b) for a, b = split(x) is c, d = split(f(x))"""
    changes = 0
    for node in graph.walk():
        while node.op == "Split" and node.graph is not None:
            users = _alike(node)
            if not users or not context.commit("hoist-over-split", node):
                break
            _hoist(node.graph, node, users)
            changes += 1
    return changes


def _alike(split: Node) -> list[Node]:
    """The only user of each output, if all are the same element-wise operator; else none."""
    users: list[Node] = []
    for out in split.outputs:
        if not out.has_one_use:
            return []
        users.append(out.users[0])
    first = users[0]
    plain = len(users) > 1 and len(set(users)) == len(users) and all(u.graph is split.graph for u in users)
    return users if plain and all(_same(first, user) for user in users) and _is_pointwise(first) else []


def _same(a: Node, b: Node) -> bool:
    if a.op != b.op or a.domain or len(a.inputs) != len(b.inputs) or len(b.outputs) != 1 or b.output.is_result:
        return False
    return _comparable(a.attrs) == _comparable(b.attrs) and a.inputs[1:] == b.inputs[1:]


def _comparable(attrs: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in attrs.items()}


def _is_pointwise(node: Node) -> bool:
    if node.op in POINTWISE:
        return len(node.inputs) == 1
    numbers = all(v is None or (v.constant is not None and shape_of(v) in ((), (1,))) for v in node.inputs[1:])
    return node.op in _WITH_NUMBER and numbers


def _hoist(graph: Graph, split: Node, users: list[Node]) -> None:
    x, first = split.inputs[0], users[0]
    assert x is not None
    before, after = x.type, first.output.type
    type = after
    if isinstance(before, TensorType) and isinstance(after, TensorType):
        type = TensorType(after.dtype, before.shape)
    whole = Node(first.op, (x, *first.inputs[1:]), first.attrs, [type], name=first.name)
    whole.origins = origins_of(*users)
    whole.made_by = "hoist-over-split"
    graph.insert_before(split, whole)
    graph.set_input(split, 0, whole.output)
    for part, user in zip(split.outputs, users):
        part.type, part.name = user.output.type, user.output.name
        graph.replace_uses(user.output, part)
        graph.erase(user)
