"""An If whose condition is constant is replaced by its branch."""

from __future__ import annotations

from ...ir import Graph, Node
from ...pipeline.passes import graph_pass
from ...rewrite import Context
from .splice import splice


@graph_pass("inline-branches")
def inline_branches(graph: Graph, context: Context) -> int:
    """if true then f(x) else g(x) = f(x)"""
    return _inline(graph, context)


def _inline(graph: Graph, context: Context) -> int:
    changes = 0
    for node in graph:
        taken = _taken(node)
        if taken is not None and context.commit("inline-branch", node):
            inner = _inline(taken, context)
            splice(graph, node, taken)
            changes += 1 + inner
            continue
        for nested in node.subgraphs:
            changes += _inline(nested, context)
    return changes


def _taken(node: Node) -> Graph | None:
    """The branch that always runs, None if unknown."""
    condition = node.constant(0) if node.op == "If" else None
    if condition is None or condition.size != 1:
        return None
    branch = node.attrs.get("then_branch" if bool(condition.array().reshape(())) else "else_branch")
    return branch if isinstance(branch, Graph) and len(branch.outputs) == len(node.outputs) else None
