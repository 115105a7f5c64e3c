"""Split a gradient model: nodes that depend on the sample alone run once, the others for a batch of directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ...analysis.operands import ancestors
from ...errors import Declined
from ...ir import Array, DType, Graph, Model, Node, Port, TensorType, Value, clone_node

_ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Where"))
"""Operators that may broadcast one row against a batch."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A value that the first half computes and the second reads. is_shared: one row serves the whole batch."""

    name: str
    is_shared: bool

    def for_rows(self, array: Array, rows: int) -> Array:
        """The value of one sample, [1, …], for a batch of directions."""
        return array if self.is_shared else np.repeat(array, rows, 0)


@dataclass(frozen=True, slots=True)
class Halves:
    """Two models. first: outputs the crossing values. second: computes the results from these values and the seeds."""

    first: Model
    second: Model
    crossings: tuple[Crossing, ...]


def halves(model: Model, seeds: Iterable[str]) -> Halves:
    """Split a model whose inputs and results have the batch as first axis; seeds: the inputs that differ between
    directions. The results equal the model's on a batch that repeats one sample.

    The second half recomputes values without that axis, such as sizes, and indices, which count across the batch.
    Declined where graphs are nested.
    """
    nodes, names = model.graph.snapshot(), frozenset(seeds)
    if any(node.subgraphs for node in nodes):
        raise Declined("nested graphs read values of any half")
    given = [v for v in model.graph.inputs if v.name in names]
    seeded = {*given}
    for node in nodes:
        if any(v in seeded for v in node.inputs):
            seeded.update(node.outputs)
    first = next(v.type.shape[0] for v in given if isinstance(v.type, TensorType) and v.type.shape)
    later, crossing = _second_half(model, nodes, seeded, first)
    order = sorted(crossing, key=lambda v: crossing[v])
    crossings = tuple(Crossing(f"graphopt.half{i}", _is_shared(v, later, seeded)) for i, v in enumerate(order))
    ports = [Port(c.name, v.type) for c, v in zip(crossings, order)]
    front: dict[Value, Value] = {}
    before = _graph(model.graph, [v for v in model.graph.inputs if v not in seeded], set(ancestors(order)), front)
    before.set_outputs([front.get(v, v) for v in order], ports)
    back = {v: Value(_type(v, c), c.name) for v, c in zip(order, crossings)}
    after = _graph(model.graph, given, later, back, list(back.values()))
    after.set_outputs([back.get(v, v) for v in model.graph.outputs], model.graph.ports)
    one, two = (replace(model, graph=graph, metadata={}, raw=None) for graph in (before, after))
    return Halves(one, two, crossings)


def _second_half(
    model: Model, nodes: Iterable[Node], seeded: set[Value], first: object
) -> tuple[set[Node], dict[Value, int]]:
    """The nodes of the second half, and the crossing values, numbered in order of discovery."""
    later = {n for n in nodes if any(v in seeded for v in n.outputs)}
    crossing: dict[Value, int] = {}
    waiting = [v for n in nodes if n in later for v in n.inputs] + list(model.graph.outputs)
    while waiting:
        value = waiting.pop()
        if value is None or value.constant is not None or value in seeded or value in crossing:
            continue
        if _crosses(value, first):
            crossing[value] = len(crossing)
        elif value.producer is None:
            raise Declined(f"the input {value.name!r} has no batch")
        elif value.producer not in later:
            later.add(value.producer)
            waiting += value.producer.inputs
    return later, crossing


def _crosses(value: Value, first: object) -> bool:
    kind = value.type
    rows = kind.shape[0] if isinstance(kind, TensorType) and kind.shape else None
    return (
        isinstance(kind, TensorType) and rows == first
        and (value.producer is None or kind.dtype.is_float or kind.dtype is DType.BOOL)
    )  # fmt: skip


def _is_shared(value: Value, later: set[Node], seeded: set[Value]) -> bool:
    """Whether each reader in the second half is elementwise and has a seeded operand of the same rank."""
    readers = [use.node for use in value.uses if use.node in later]
    return all(
        node.op in _ELEMENTWISE and any(v in seeded and _rank(v) == _rank(value) for v in node.inputs if v is not None)
        for node in readers
    )


def _rank(value: Value) -> int | None:
    kind = value.type
    return len(kind.shape) if isinstance(kind, TensorType) and kind.shape is not None else None


def _type(value: Value, crossing: Crossing) -> TensorType:
    kind = value.type
    assert isinstance(kind, TensorType) and kind.shape is not None
    return TensorType(kind.dtype, (1, *kind.shape[1:])) if crossing.is_shared else kind


def _graph(
    graph: Graph, inputs: Iterable[Value], nodes: set[Node], values: dict[Value, Value], more: Iterable[Value] = ()
) -> Graph:
    """A graph of copies of `nodes`, in order, and of `inputs`; adds the copies to `values`."""
    for value in inputs:
        values[value] = Value(value.type, value.name)
    made = Graph(graph.name, [*(values[v] for v in inputs), *more])
    for node in graph.snapshot():
        if node in nodes:
            made.append(clone_node(node, values))
    return made
