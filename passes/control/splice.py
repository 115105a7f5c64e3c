"""Insert copies of bodies of If, Loop and functions before their node, or in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...ir import Graph, Node, Value, clone_node

Adapt = Callable[[Node, "dict[Value, Value]"], None]
"""Called with each copied node, and with the copies of the body's values so far."""


def insert_body(
    graph: Graph, node: Node, body: Graph, inputs: Iterable[Value | None] = (), adapt: Adapt | None = None
) -> list[Value]:
    """Copy the nodes of `body` before `node`, with `inputs` for its inputs; returns the values of its results.

    Values captured by the body are visible at `node`, too.
    """
    values = {inner: value for inner, value in zip(body.inputs, inputs) if value is not None}
    for inner in body.snapshot():
        copy = clone_node(inner, values)
        graph.insert_before(node, copy)
        if adapt is not None:
            adapt(copy, values)
    return [values.get(result, result) for result in body.outputs]


def splice(
    graph: Graph, node: Node, body: Graph, inputs: Iterable[Value | None] = (), adapt: Adapt | None = None
) -> None:
    """Replace `node` by a copy of `body`, whose results replace the node's, in order."""
    for old, new in zip(node.outputs, insert_body(graph, node, body, inputs, adapt)):
        graph.replace_uses(old, new)
    graph.erase(node)
