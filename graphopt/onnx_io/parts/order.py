"""Topological sorting of files whose nodes are not in execution order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import onnx

from ...errors import ModelError
from ...ops import nested_graphs


def in_order(nodes: Iterable[onnx.NodeProto], place: str) -> list[onnx.NodeProto]:
    """The nodes sorted so that each follows its producers, otherwise in file order. ModelError on a cycle."""
    nodes = list(nodes)
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [0] * len(nodes)
    readers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for source in {producer[name] for name in reads(node) if name in producer}:
            readers[source].append(i)
            waits[i] += 1
    ready = [i for i, count in enumerate(waits) if count == 0]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers[i]:
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        raise ModelError(
            f"{place}: {_on_cycle(nodes, producer, waits)} is part of a cycle: it depends on its own result"
        )
    return [nodes[i] for i in order]


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, by its inputs or by captures of its nested graphs."""
    names = {name for name in node.input if name}
    for graph in nested_graphs(node):
        names |= _captured(graph)
    return names


def _captured(graph: onnx.GraphProto) -> set[str]:
    used = {value.name for value in graph.output}
    defined = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    defined |= {sparse.values.name for sparse in graph.sparse_initializer}
    for node in graph.node:
        used |= reads(node)
        defined.update(node.output)
    return used - defined


def _on_cycle(nodes: list[onnx.NodeProto], producer: dict[str, int], waits: list[int]) -> str:
    """A node on a cycle: walk back from any waiting node until a node repeats."""
    i = next(i for i, count in enumerate(waits) if count)
    seen: set[int] = set()
    while i not in seen:
        seen.add(i)
        i = next(producer[name] for name in sorted(reads(nodes[i])) if name in producer and waits[producer[name]])
    return node_place(nodes[i], i)


def node_place(node: onnx.NodeProto, index: int) -> str:
    """The name of a node in error messages."""
    return f"node {node.name!r} ({node.op_type})" if node.name else f"node {index} ({node.op_type})"
