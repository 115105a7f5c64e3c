"""Operators that only move elements move their codes instead: a quarter of the bytes, and no rounding between."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...analysis.operands import MOVES, moved
from ...errors import Declined
from ...ir import Constant, Graph, Node, Value
from ...ops import attr, version_for
from ...pipeline.passes import graph_pass
from ...rewrite import Builder, Context, origins_of
from .grids import Grid, grid_of

_LARGEST = 64  # the most operators of a region: a bound on time
_MOVES = MOVES | {"Split", "Pad", "Resize"}
_PICKS = frozenset(("MaxPool", "ReduceMax", "ReduceMin"))
"""Operators that choose elements of their operand by order: codes have the order of their floats."""


@graph_pass("move-codes")
def move_codes(graph: Graph, context: Context) -> int:
    """q(move(dq(x))) = move(x) for one scale and zero point; move also stands for the maximum of elements

    Operands may be several, or constants that are on the grid; other users of a moved value get a dq of its own,
    provided that fewer nodes are left.
    """
    changes = 0
    for node in list(graph.walk()):
        if node.op != "QuantizeLinear" or node.graph is None or node.output.is_unused:
            continue
        grid = grid_of(node)
        region = None if grid is None else _Region.behind(node, grid)
        if region is not None and region.gain() > 0:
            changes += region.turn(node, context)
    return changes


@dataclass(slots=True)
class _Region:
    """Operators between DequantizeLinear and QuantizeLinear. sources: the entering floats, with their codes."""

    graph: Graph
    grid: Grid
    moves: dict[Node, None] = field(default_factory=dict)
    sources: dict[Value, Value] = field(default_factory=dict)

    @classmethod
    def behind(cls, write: Node, grid: Grid) -> _Region | None:
        """The moves before a QuantizeLinear, back to floats dequantized from codes of its grid; else None."""
        assert write.graph is not None and write.inputs[0] is not None
        region, open_values = cls(write.graph, grid), [write.inputs[0]]
        while open_values:
            value = open_values.pop()
            if value in region.sources or value.producer in region.moves:
                continue
            source = _codes_of(value, grid)
            if source is not None:
                region.sources[value] = source
                continue
            node = value.producer
            if node is None or node.graph is not write.graph or len(region.moves) == _LARGEST:
                return None
            operands = moved_operands(node, grid)
            if operands is None:
                return None
            region.moves[node] = None
            open_values += operands
        return region if region.moves else None

    def _is_write(self, node: Node) -> bool:
        return node.op == "QuantizeLinear" and grid_of(node) == self.grid and node.graph is self.graph

    def _readers(self, value: Value) -> tuple[list[Node], bool]:
        """The QuantizeLinear nodes that read a moved value, and whether it has other users outside of the region."""
        writes = [user for user, slot in value.uses if slot == 0 and self._is_write(user)]
        return writes, any(user not in self.moves and user not in writes for user in value.users)

    def gain(self) -> int:
        """Nodes removed minus nodes added."""
        readers = [self._readers(value) for node in self.moves for value in node.outputs]
        reads = {value.producer for value in self.sources if value.producer is not None}
        freed = sum(all(user in self.moves for user in node.output.users) for node in reads)
        return freed + sum(len(writes) - outside for writes, outside in readers)

    def turn(self, write: Node, context: Context) -> int:
        """Move codes in place of the floats before `write`; 0 where onnxruntime does not move them."""
        build, codes = Builder(self.graph, context), dict(self.sources)
        order = [node for node in self.graph if node in self.moves]
        try:
            for node in order:
                self._move(build, node, codes)
        except Declined:
            return 0
        if not context.commit("move-codes", write):
            return 0
        for node, new in zip(order, build.nodes):
            new.origins = node.origins
            self.graph.insert_before(node, new)
        for node in order:
            for value in node.outputs:
                self._hand_over(node, value, codes[value])
        for node in reversed(order):
            self.graph.erase_unused(node)
        return 1

    def _move(self, build: Builder, node: Node, codes: dict[Value, Value]) -> None:
        """Build `node` on codes, and record the codes of its results."""
        inputs = [codes.get(v, v) if v is not None else None for v in node.inputs]
        if node.op == "Pad":
            fill = node.constant(2)
            number = self.grid.code(0.0 if fill is None else float(fill.array().reshape(())))
            inputs = [*inputs[:2], build.constant(np.array(number, self.grid.dtype)), *inputs[3:]]
        build.copy(node, inputs)
        codes.update(zip(node.outputs, build.nodes[-1].outputs))

    def _hand_over(self, node: Node, value: Value, code: Value) -> None:
        """Connect the users of a moved value to its codes, or to floats dequantized from them."""
        graph, (writes, outside) = self.graph, self._readers(value)
        for write in writes:
            graph.replace_uses(write.output, code)
            if code.producer is not None:
                code.producer.origins = origins_of(code.producer, write)
            graph.erase(write)
        if not outside:
            return
        build = Builder(graph)
        constants = np.float32(self.grid.scale), np.array(self.grid.zero, self.grid.dtype)
        floats = build.DequantizeLinear(code, *constants)
        build.nodes[0].origins = node.origins
        graph.insert_before(node, build.nodes[0])
        graph.replace_uses(value, floats)


def _codes_of(value: Value, grid: Grid) -> Value | None:
    """The codes from which a float is dequantized, or those of a constant on the grid; None for others."""
    if value.constant is not None:
        array = value.constant.array()
        held = array.dtype == np.float32 and grid.holds(array)
        return Value(constant=Constant.of(grid.codes(array))) if held else None
    node = value.producer
    if node is None or node.op != "DequantizeLinear" or grid_of(node) != grid:
        return None
    return node.inputs[0]


def moved_operands(node: Node, grid: Grid) -> list[Value] | None:
    """The operands whose elements `node` moves; None if it would compute other results on codes of this grid."""
    if node.domain or node.op not in _MOVES | _PICKS or node.inputs[0] is None:
        return None
    if node.op in _PICKS and (version_for(node) < 12 or any(not v.is_unused for v in node.outputs[1:])):
        return None  # codes from opset 12 on
    if node.op == "Resize" and (attr(node, "mode", "nearest") != "nearest" or _extrapolates(node)):
        return None
    if node.op == "Pad" and not _pads_on_grid(node, grid):
        return None
    return [value for value in moved(node) if value is not None]


def _extrapolates(resize: Node) -> bool:
    return str(attr(resize, "coordinate_transformation_mode", "")) == "tf_crop_and_resize"


def _pads_on_grid(pad: Node, grid: Grid) -> bool:
    if version_for(pad) < 13 or str(attr(pad, "mode", "constant")) != "constant":
        return version_for(pad) >= 13
    fill = pad.constant(2)
    if pad.input(2) is not None and (fill is None or fill.size != 1):
        return False
    return fill is None or grid.holds(fill.array())
