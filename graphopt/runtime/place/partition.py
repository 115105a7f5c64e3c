"""Partition of a graph into segments on kernels or in onnxruntime: convex sets, in an executable order.

Demand selects the units: from the outputs backwards, a value is computed by its operation if it has one, else by its
node. Units are then levelled: along every edge the level stays, or rises where the kind changes, so that the units of
one level are convex, and the kind changes as rarely as any order allows. Linear in the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
        self._wanted = set(graph.outputs)
        operations = coverage.providers.values()
        self._is_operation = frozenset(operations)
        self._products = frozenset(operation for operation in operations if operation.is_product)
        self._glue = frozenset(operation for operation in operations if operation.is_float_glue)
        made = {operation: index for index, operation in enumerate(operations)}
        constants = constant_nodes(graph)
        # by value: the operation that may compute it, the node that does so otherwise, and the rank of either in order
        self._makers: dict[Value, tuple[Operation | None, int, Node, int]] = {}
        for place, node in enumerate(graph):
            rank = place * (len(made) + 1)
            for value in node.outputs if node not in constants else self._wanted.intersection(node.outputs):
                operation = coverage.providers.get(value)
                self._makers[value] = operation, rank + (0 if operation is None else made[operation]), node, rank
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
        if not self._products:
            left.update(self._is_operation)
        while True:
            units = self._demanded(left)
            ends = self._loose_ends(units)
            if ends:
                left.update(ends)
                continue
            levels, home = self._levelled(units)
            dissolved = [
                unit
                for level, inside in levels.items()
                if level % 2 and self._products.isdisjoint(inside)
                for unit in inside
                if isinstance(unit, Operation)
            ]
            if not dissolved:
                return self._segments(levels, home)
            left.update(dissolved)

    def _demanded(self, banned: set[Operation]) -> list[Unit]:
        """The units that compute the outputs, in order; what each reads is then in `_read`, as captures are found by a
        walk."""
        demanded: dict[Unit, int] = {}
        seen, makers, known = set[Value](), self._makers, self._read
        stack = list(self.graph.outputs)
        while stack:
            value = stack.pop()
            if value in seen or value not in makers:
                continue
            seen.add(value)
            unit: Unit
            operation, rank, unit, node_rank = makers[value]
            if operation is None or operation in banned:
                rank = node_rank
            else:
                unit = operation
            if unit not in demanded:
                demanded[unit] = rank
                if unit not in known:
                    known[unit] = sources(unit)
                stack.extend(known[unit])
        return sorted(demanded, key=demanded.__getitem__)

    def _loose_ends(self, units: list[Unit]) -> list[Operation]:
        """Float arithmetic that, directly or through more of its kind, only nodes in onnxruntime read."""
        if self._glue.isdisjoint(units):
            return []
        known = self._read
        elsewhere = {value for unit in units if unit not in self._is_operation for value in known[unit]}
        read: set[Value] = self._wanted - elsewhere
        loose: list[Operation] = []
        for unit in reversed(units):
            if not isinstance(unit, Operation):
                continue
            if unit in self._glue and unit.output not in read:
                loose.append(unit)
                continue
            read.update(unit.data_inputs)
        return loose

    def _levelled(self, units: list[Unit]) -> tuple[dict[int, list[Unit]], dict[Value, int]]:
        """The units by level, odd ones on kernels and even ones in onnxruntime, and the levels that compute values."""
        known, kinds = self._read, self._is_operation
        home: dict[Value, int] = {}
        levels: dict[int, list[Unit]] = {}
        for unit in units:
            kind = level = int(unit in kinds)
            for value in known[unit]:
                if value in home:
                    below = home[value]
                    below += (below + kind) % 2
                    if below > level:
                        level = below
            levels.setdefault(level, []).append(unit)
            for value in results(unit):
                home[value] = level
        return levels, home

    def _segments(self, levels: Mapping[int, list[Unit]], home: Collection[Value]) -> list[Segment]:
        reader: dict[Value, int] = {}  # the level that reads a value, or one of several
        several = set[Value]()
        known = self._read
        reads = {level: dict.fromkeys([v for unit in levels[level] for v in known[unit]]) for level in sorted(levels)}
        for level, read in reads.items():
            for value in read:
                if reader.setdefault(value, level) != level:
                    several.add(value)
        segments = []
        for level, read in reads.items():
            inside = levels[level]
            written = dict.fromkeys([value for unit in inside for value in results(unit)])
            inputs = tuple([v for v in read if v not in written and (v in home or v.owner is self.graph)])
            outputs = tuple(
                [v for v in written if v in self._wanted or v in several or reader.get(v, level) != level]
            )  # fmt: skip
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
