"""The structural check that follows every pass: order, scope, exact use-lists, ownership."""

from __future__ import annotations

from .graph import RETURN, Graph, IRError, Node, Value
from .model import Model


class VerifyError(IRError):
    """Raised for a graph that breaks an invariant; the message names the place."""


def verify(model: Model | Graph) -> None:
    """Check a model (with its functions) or a graph; raise VerifyError at the first breach. Linear in the nodes."""
    if isinstance(model, Model):
        for function in model.functions.values():
            verify(function.body)
        model = model.graph
    uses: dict[Value, int] = {}
    _check_graph(model, set(), uses)
    for value, count in uses.items():
        if len(value._uses) != count:
            raise VerifyError(f"value {value.name!r} lists {len(value._uses)} uses, the graph has {count}")


def _check_graph(graph: Graph, outer: set[Value], uses: dict[Value, int]) -> None:
    here = list(graph.inputs)
    seen = outer
    for value in here:
        if value.owner is not graph or value.producer is not None:
            raise VerifyError(f"graph {graph.name!r} input {value.name!r} is owned by something else")
        seen.add(value)
        uses.setdefault(value, 0)
    previous: Node | None = None
    for node in (*graph.snapshot(), graph.return_node):
        _check_node(graph, node, previous, seen, uses)
        for nested in node.subgraphs if node._nested else ():
            if nested.owner is not node:
                raise VerifyError(f"{_place(node)}: nested graph {nested.name!r} is owned by something else")
            _check_graph(nested, seen, uses)
        for value in node.outputs:
            if value.producer is not node or node.outputs[value.index] is not value:
                raise VerifyError(f"{_place(node)} output {value.index} has another producer")
            seen.add(value)
            uses.setdefault(value, 0)
            here.append(value)
        previous = node
    if len(graph.ports) != len(graph.outputs):
        raise VerifyError(f"graph {graph.name!r} has {len(graph.outputs)} results but {len(graph.ports)} ports")
    seen.difference_update(here)


def _check_node(graph: Graph, node: Node, previous: Node | None, seen: set[Value], uses: dict[Value, int]) -> None:
    if node.graph is not graph or node._prev is not previous:
        raise VerifyError(f"{_place(node)} is not where its graph has it")
    if node.op == RETURN and node is not graph.return_node:
        raise VerifyError(f"graph {graph.name!r} returns before its end")
    for slot, value in enumerate(node.inputs):
        if value is None:
            continue
        if value.constant is None and value not in seen:
            raise VerifyError(f"{_place(node)} input {slot} ({value.name!r}) is used before it is defined")
        if (node, slot) not in value._uses:  # equal to the Use, and cheaper
            raise VerifyError(f"{_place(node)} input {slot} is missing from the use-list of {value.name!r}")
        uses[value] = uses.get(value, 0) + 1


def _place(node: Node) -> str:
    return f"{node.op} {node.name!r}" if node.name else node.op
