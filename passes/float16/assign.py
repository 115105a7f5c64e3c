"""Assign float16 or float32 to nodes: as many in float16 as allowed, with few Casts between the two.

A minimum cut (Picard and Ratliff 1975): a value that crosses between float16 and float32 costs one Cast, however many
readers it has; a heavy node left in float32 costs more than any Cast; nodes without a float16 form are tied to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import Declined
from ...ir import RETURN, Graph, Model, Node, Use, Value
from .constants import why_not_half
from .slots import HalfSlots, counted, half_slots, is_float, touches_floats

_LIGHT, _CAST, _HEAVY = 1, 4, 1 << 12
"""Costs of a light node in float32, a Cast and a heavy node: a light chain cheaper than two Casts stays float32."""
_NEVER = 1 << 24
"""The capacity of edges that are never cut: above any sum of Casts, below overflow of 32 bits."""
WEIGHT = 256
"""Elements from which on a constant counts as a weight."""
_HALF, _FLOAT = 0, 1
"""The source and the sink of the network."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Nodes with float32 operands or results: the slots of those that may be float16, and why the others may not."""

    slots: dict[Node, HalfSlots]
    kept: dict[Node, str]

    def without(self, kept: Mapping[Node, str]) -> Candidates:
        """The candidates less the nodes of `kept`."""
        return Candidates({n: s for n, s in self.slots.items() if n not in kept}, {**kept, **self.kept})


def candidates(model: Model) -> Candidates:
    """The candidates by operators, schemas and constants alone, without data."""
    slots: dict[Node, HalfSlots] = {}
    kept: dict[Node, str] = {}
    for node in model.graph.walk():
        if not touches_floats(node):
            continue
        try:
            slots[node] = half_slots(node)
            _require_constants(node, slots[node])
        except Declined as declined:
            slots.pop(node, None)
            kept[node] = declined.reason
    counting = {node: "it computes whole numbers, such as sizes" for node in counted(model.graph) if node in slots}
    return Candidates(slots, kept).without(counting)


def _require_constants(node: Node, slots: HalfSlots) -> None:
    if node.op in ("Clip", "Min", "Max"):
        return  # a bound beyond float16 has no effect: it becomes infinite
    for slot in slots.inputs:
        constant = node.constant(slot)
        why = "" if constant is None else why_not_half(constant)
        if why:
            raise Declined(why, node)


@dataclass(slots=True)
class _Network:
    """Edges with capacities between numbered vertices."""

    count: int = 2
    edges: dict[tuple[int, int], int] = field(default_factory=dict)

    def vertex(self) -> int:
        self.count += 1
        return self.count - 1

    def add(self, start: int, end: int, capacity: int) -> None:
        self.edges[start, end] = min(_NEVER, self.edges.get((start, end), 0) + capacity)

    def source_side(self) -> np.ndarray:
        """Whether each vertex is on the side of float16 in the minimum cut with the most on that side."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        starts, ends = np.array(list(self.edges), np.int32).reshape(-1, 2).T
        capacities = csr_array((np.array(list(self.edges.values()), np.int32), (starts, ends)), (self.count,) * 2)
        residual = capacities - maximum_flow(capacities, _HALF, _FLOAT).flow
        open_edges = csr_array(residual > 0)
        float_side = np.zeros(self.count, bool)
        float_side[breadth_first_order(open_edges.T, _FLOAT, return_predecessors=False)] = True
        return ~float_side


def assign(model: Model, given: Candidates, keep_io: bool) -> frozenset[Node]:
    """The candidates that become float16."""
    network = _Network()
    vertices = {node: network.vertex() for node in given.slots}
    for node, vertex in vertices.items():
        network.add(_HALF, vertex, _HEAVY if is_heavy(node, given.slots[node]) else _LIGHT)
    for graph in model.graph.graphs():
        is_free = graph is model.graph and not keep_io
        for value in (*graph.inputs, *(out for node in graph.snapshot() for out in node.outputs)):
            if is_float(value):
                _add_value(network, value, given, vertices, is_free)
    is_half = network.source_side()
    return frozenset(node for node, vertex in vertices.items() if is_half[vertex])


def is_heavy(node: Node, slots: HalfSlots) -> bool:
    """A product, or a node with a constant of at least `WEIGHT` elements."""
    constants = (node.constant(slot) for slot in slots.inputs)
    return node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") or any(
        constant is not None and constant.size >= WEIGHT for constant in constants
    )


def _add_value(network: _Network, value: Value, given: Candidates, vertices: Mapping[Node, int], is_free: bool) -> None:
    """Add the two Casts that a value may need: to float32 after a float16 node, to float16 before one."""
    producer = value.producer
    maker: int | None = _FLOAT
    if producer is None:
        maker = None if is_free else _FLOAT
    elif producer in vertices and value.index in given.slots[producer].outputs:
        maker = vertices[producer]
    readers = {reader for use in value.uses if (reader := _reader(use, given, vertices, is_free)) is not None}
    if maker is None:
        maker = network.vertex()
    if not readers - {maker}:
        return
    down = network.vertex()
    if maker != _FLOAT:
        network.add(maker, down, _CAST)
        for reader in readers:
            network.add(down, reader, _NEVER)
    up = network.vertex()
    network.add(up, maker, _CAST)
    for reader in readers - {_FLOAT}:
        network.add(reader, up, _NEVER)


def _reader(use: Use, given: Candidates, vertices: Mapping[Node, int], is_free: bool) -> int | None:
    """The vertex of a use; None for a result of the model that may have either type."""
    if use.node.op == RETURN:
        return None if is_free and isinstance(use.node.graph, Graph) and use.node.graph.owner is None else _FLOAT
    return vertices[use.node] if use.node in vertices and use.slot in given.slots[use.node].inputs else _FLOAT
