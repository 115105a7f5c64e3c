"""Dead code: nodes with unused results, in every graph of the model."""

from __future__ import annotations

from ...ir import FunctionId, Graph, Node, Value, model_of
from ...pipeline.passes import graph_pass
from ...rewrite import Context

PURE = frozenset(("", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"))
"""Domains whose operators only compute their outputs; an operator of any other may have side effects."""


@graph_pass("remove-dead-nodes")
def remove_dead_nodes(graph: Graph, context: Context) -> int:
    """Remove nodes whose results are never used, and unused results of If."""
    return _sweep(graph, context)


def _sweep(graph: Graph, context: Context) -> int:
    removed = 0
    for node in reversed(graph):
        if all(out.is_unused for out in node.outputs) and is_pure(node):
            if context.commit("remove-dead-node", node):
                graph.erase(node)
                removed += 1
            continue
        if node.op == "If" and any(out.is_unused for out in node.outputs):
            node = _narrow(graph, node, context)
        for nested in node.subgraphs:
            removed += _sweep(nested, context)
    return removed


def is_pure(node: Node) -> bool:
    """Whether the node has no side effects."""
    model = None if node.graph is None else model_of(node.graph)
    function = None if model is None else model.functions.get(FunctionId(node.domain, node.op_type, node.overload))
    if function is not None:
        return all(is_pure(inner) for inner in function.body.graph.walk())
    return node.domain in PURE and all(is_pure(inner) for nested in node.subgraphs for inner in nested.walk())


def _narrow(graph: Graph, node: Node, context: Context) -> Node:
    """An If without its unused results; the nodes that compute them in its branches become dead."""
    kept = [i for i, out in enumerate(node.outputs) if not out.is_unused]
    branches = {name: value for name, value in node.attrs.items() if isinstance(value, Graph)}
    fits = kept and len(branches) == 2 and all(len(b.outputs) == len(node.outputs) for b in branches.values())
    if not fits or not context.commit("narrow-if", node):
        return node
    for name in branches:
        graph.set_attr(node, name, None)
    outputs = [_copy(node.outputs[i]) for i in kept]
    narrow = Node(node.op, node.inputs, {**node.attrs, **branches}, outputs, name=node.name)
    narrow.doc, narrow.metadata, narrow.raw = node.doc, node.metadata, node.raw
    narrow.origins, narrow.made_by = node.origins, node.made_by
    graph.insert_before(node, narrow)
    for branch in branches.values():
        branch.set_outputs([branch.outputs[i] for i in kept], [branch.ports[i] for i in kept])
    for i, out in zip(kept, outputs):
        graph.replace_uses(node.outputs[i], out)
    graph.erase(node)
    return narrow


def _copy(value: Value) -> Value:
    copy = Value(value.type, value.name)
    copy.doc, copy.metadata = value.doc, value.metadata
    return copy
