"""networkx views of a graph: its nodes, or its values, with what flows between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..ir import RETURN, Graph, Node, Value, producers_of

if TYPE_CHECKING:
    import networkx as nx


def node_network(graph: Graph) -> nx.DiGraph[Any]:
    """Nodes of one graph, an edge from producer to user (captures of nested graphs included; Return left out)."""
    import networkx as nx

    network: nx.DiGraph[Any] = nx.DiGraph()
    network.add_nodes_from(graph)
    for node in graph:
        network.add_edges_from((source, node) for source in producers_of(node) if source.graph is graph)
    return network


def value_network(graph: Graph) -> nx.MultiDiGraph[Any]:
    """Values of one graph, an edge from each operand of a node to each of its results, keyed by (node, slot)."""
    import networkx as nx

    network: nx.MultiDiGraph[Any] = nx.MultiDiGraph()
    network.add_nodes_from(graph.inputs)
    for node in graph:
        network.add_nodes_from(node.outputs)
        for slot, value in enumerate(node.inputs):
            if value is not None:
                network.add_edges_from((value, result, (node, slot)) for result in node.outputs)
    return network


def critical_path(graph: Graph, cost: Callable[[Node], float]) -> list[Node]:
    """The chain of nodes with the largest total cost."""
    best: dict[Node, tuple[float, Node | None]] = {}
    for node in graph:
        before = [p for p in producers_of(node) if p in best]
        longest = max(before, key=lambda p: best[p][0], default=None)
        best[node] = (cost(node) + (best[longest][0] if longest is not None else 0.0), longest)
    path: list[Node] = []
    at = max(best, key=lambda n: best[n][0], default=None)
    while at is not None:
        path.append(at)
        at = best[at][1]
    return path[::-1]


def dominators(graph: Graph) -> dict[Node, Node]:
    """For each node, the closest other node that every path from the inputs to it passes; absent if there is none."""
    import networkx as nx

    entry: Any = object()
    network: nx.DiGraph[Any] = nx.DiGraph()
    for node in graph:
        sources = [p for p in producers_of(node) if p.graph is graph]
        network.add_edges_from((source, node) for source in (sources or [entry]))
        if sources and any(v is not None and _enters(v, graph) for v in node.inputs):
            network.add_edge(entry, node)
    if entry not in network:
        return {}
    found = nx.immediate_dominators(network, entry)
    return {n: d for n, d in found.items() if n is not entry and d is not entry and d is not None and n.op != RETURN}


def _enters(value: Value, graph: Graph) -> bool:
    return value.constant is None and (value.producer is None or value.producer.graph is not graph)
