"""Copies of models and graphs. Constants are shared: they are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .graph import Graph, Node, Value
from .model import Function, Model


def clone_model(model: Model) -> Model:
    """A copy of a model; edits of the copy do not change the original."""
    return replace(
        model,
        graph=clone_graph(model.graph),
        opsets=dict(model.opsets),
        functions={key: Function(f.id, clone_model(f.body), f.raw) for key, f in model.functions.items()},
        metadata=dict(model.metadata),
        listener=None,
    )


def clone_graph(graph: Graph, values: Mapping[Value, Value] | None = None) -> Graph:
    """A copy of a graph and all nested in it; `values` maps captured outer values to replacements."""
    return _Cloner(dict(values or {})).graph(graph)


def clone_node(node: Node, values: dict[Value, Value]) -> Node:
    """A detached copy that reads `values.get(v, v)` for each operand v; its outputs are added to `values`."""
    return _Cloner(values).node(node)


class _Cloner:
    def __init__(self, values: dict[Value, Value]) -> None:
        self.values = values

    def graph(self, graph: Graph) -> Graph:
        copy = Graph(graph.name, [self.define(v) for v in graph.inputs])
        copy.doc, copy.metadata, copy.raw = graph.doc, dict(graph.metadata), graph.raw
        for node in graph.snapshot():
            copy.append(self.node(node))
        copy.set_outputs([self.read(v) for v in graph.outputs], graph.ports)
        return copy

    def node(self, node: Node) -> Node:
        inputs = [None if v is None else self.read(v) for v in node.inputs]
        attrs = {name: self.attr(value) for name, value in node.attrs.items()}
        copy = Node(
            node.op, inputs, attrs, [self.define(v) for v in node.outputs], name=node.name, overload=node.overload
        )
        copy.doc, copy.raw, copy.origins, copy.made_by = node.doc, node.raw, node.origins, node.made_by
        copy.metadata = None if node.metadata is None else dict(node.metadata)
        return copy

    def attr(self, value: Any) -> Any:
        if isinstance(value, Graph):
            return self.graph(value)
        if isinstance(value, tuple) and value and isinstance(value[0], Graph):
            return tuple(self.graph(g) for g in value)
        return value

    def define(self, value: Value) -> Value:
        copy = Value(value.type, value.name)
        copy.default, copy.doc = value.default, value.doc
        copy.metadata = None if value.metadata is None else dict(value.metadata)
        self.values[value] = copy
        return copy

    def read(self, value: Value) -> Value:
        known = self.values.get(value)
        if known is not None:
            return known
        if value.constant is None:
            return value
        copy = Value(value.type, value.name, constant=value.constant)
        copy.doc = value.doc
        copy.metadata = None if value.metadata is None else dict(value.metadata)
        self.values[value] = copy
        return copy
