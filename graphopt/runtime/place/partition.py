"""Partition of a graph into segments on kernels or in onnxruntime: convex sets, in an executable order.

Demand selects the units: from the outputs backwards, a value is computed by its operation if it has one, else by its
node. Units are then levelled: along every edge the level stays, or rises where the kind changes, so that the units of
one level are convex, and the kind changes as rarely as any order allows. Linear in the graph.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...ir import Graph, Node, Value, captures
from ..lower.operations import Coverage
from ..lower.traits import Operation

Unit = Operation | Node
"""An operation on kernels, or a node in onnxruntime."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Units of one kind and level, in order; `inputs` come from outside, `outputs` are read outside."""

    units: tuple[Unit, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def is_region(self) -> bool:
        """Whether the segment runs on kernels."""
        return isinstance(self.units[0], Operation)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The units of a region."""
        return tuple(unit for unit in self.units if isinstance(unit, Operation))


def whole(graph: Graph) -> list[Segment]:
    """All nodes of a graph as one segment; none for an empty graph."""
    nodes = tuple(graph)
    return [Segment(nodes, graph.inputs, graph.outputs)] if nodes else []


class Partitions:
    """Partitions of one graph, which must not change meanwhile: what all of them ask is found once."""

    def __init__(self, graph: Graph, coverage: Coverage) -> None:
        self.graph, self.coverage = graph, coverage
        self._constants = constant_nodes(graph)
        self._place = {node: index for index, node in enumerate(graph)}
        # the operations of one node, in their order
        self._made = {operation: index for index, operation in enumerate(coverage.providers.values())}
        self._read: dict[Unit, tuple[Value, ...]] = {}
        self._found: dict[frozenset[Operation], list[Segment]] = {}

    def without(self, banned: Collection[Operation]) -> list[Segment]:
        """Segments in the order they run; operations in `banned` are left to their nodes.

        Float arithmetic stays on kernels only where other operations read its result. Regions without any product are
        not worth their borders and dissolve.
        """
        key = frozenset(banned)
        if key not in self._found:
            self._found[key] = self._partition(set(banned))
        return list(self._found[key])

    def _partition(self, left: set[Operation]) -> list[Segment]:
        if not any(operation.is_product for operation in self.coverage.providers.values()):
            left.update(self.coverage.providers.values())
        while True:
            units = self._demanded(left)
            ends = self._loose_ends(units)
            if ends:
                left.update(ends)
                continue
            segments = self._segments(units)
            dissolved = [
                operation
                for segment in segments
                if segment.is_region and not any(operation.is_product for operation in segment.operations)
                for operation in segment.operations
            ]
            if not dissolved:
                return segments
            left.update(dissolved)

    def _sources(self, unit: Unit) -> tuple[Value, ...]:
        """`sources`, remembered: captures are found by a walk."""
        if unit not in self._read:
            self._read[unit] = sources(unit)
        return self._read[unit]

    def _demanded(self, banned: set[Operation]) -> list[Unit]:
        demanded: dict[Unit, int] = {}
        wanted, seen = set(self.graph.outputs), set[Value]()
        stack = list(self.graph.outputs)
        while stack:
            value = stack.pop()
            if value in seen or value.producer is None or value.producer not in self._place:
                continue
            seen.add(value)
            if value.producer in self._constants and value not in wanted:
                continue
            operation = self.coverage.providers.get(value)
            unit: Unit = value.producer if operation is None or operation in banned else operation
            if unit not in demanded:
                demanded[unit] = self._place[value.producer]
                stack.extend(self._sources(unit))
        made = self._made
        return sorted(demanded, key=lambda unit: (demanded[unit], made[unit] if isinstance(unit, Operation) else 0))

    def _loose_ends(self, units: list[Unit]) -> list[Operation]:
        """Float arithmetic that, directly or through more of its kind, only nodes in onnxruntime read."""
        elsewhere = {value for unit in units if not isinstance(unit, Operation) for value in self._sources(unit)}
        read: set[Value] = {value for value in self.graph.outputs if value not in elsewhere}
        loose: list[Operation] = []
        for unit in reversed(units):
            if not isinstance(unit, Operation):
                continue
            if unit.is_float_glue and unit.output not in read:
                loose.append(unit)
                continue
            read.update(unit.data_inputs)
        return loose

    def _segments(self, units: list[Unit]) -> list[Segment]:
        levels: dict[Unit, int] = {}
        home: dict[Value, Unit] = {}
        for unit in units:
            level = int(isinstance(unit, Operation))
            for value in self._sources(unit):
                if value in home:
                    below = levels[home[value]]
                    level = max(level, below + (isinstance(home[value], Operation) is not isinstance(unit, Operation)))
            levels[unit] = level
            home.update(dict.fromkeys(results(unit), unit))
        grouped: dict[int, list[Unit]] = {}
        for unit in units:
            grouped.setdefault(levels[unit], []).append(unit)
        wanted = set(self.graph.outputs)
        readers: dict[Value, set[int]] = {}
        for unit in units:
            for value in self._sources(unit):
                readers.setdefault(value, set()).add(levels[unit])
        segments = []
        for level in sorted(grouped):
            inside = grouped[level]
            written = dict.fromkeys(value for unit in inside for value in results(unit))
            read = dict.fromkeys(value for unit in inside for value in self._sources(unit))
            inputs = tuple(v for v in read if v not in written and (v in home or v.owner is self.graph))
            outputs = tuple(v for v in written if v in wanted or readers.get(v, set()) - {level})
            segments.append(Segment(tuple(inside), inputs, outputs))
        return segments


def sources(unit: Unit) -> tuple[Value, ...]:
    """The values a unit reads, captures of nested graphs included."""
    if isinstance(unit, Operation):
        return unit.inputs
    return (*(value for value in unit.inputs if value is not None), *captures(unit))


def results(unit: Unit) -> tuple[Value, ...]:
    """The values a unit computes."""
    return (unit.output,) if isinstance(unit, Operation) else unit.outputs


def constant_nodes(graph: Graph) -> set[Node]:
    """Nodes that read only constants: copied into each segment that needs them, never passed between segments."""
    constant: set[Node] = set()
    for node in graph:
        values = [value for value in node.inputs if value is not None]
        if node.subgraphs or not values:
            continue
        if all(value.constant is not None or value.producer in constant for value in values):
            constant.add(node)
    return constant
