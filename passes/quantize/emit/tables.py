"""Gather tables stored as codes, dequantized per gathered row, alone or tied to the head of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import Array, DType, Graph, Node, Value
from ....ops import attr, update_types
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..numerics.grids import Codes
from .constants import constant, insert_typed, stored_codes
from .mapped_clone import MappedClone
from .packed import gather_packed


def store_table(clone: MappedClone, unit: Unit, codes: Codes, assignment: Assignment) -> None:
    """Gather(W) = dequantized Gather(codes): a scale a column, or a row where a head is tied to the table.

    The clone's value for the unit's output becomes the dequantized one.
    """
    head = assignment.shared.heads.get(unit.node)
    node = clone.nodes[unit.node]
    name = "" if unit.node.inputs[0] is None else unit.node.inputs[0].name
    if head is None:
        rows = _by_column(clone.model.graph, node, unit, codes, name)
    elif codes.block is not None and assignment.target == "onnxruntime":
        rows = gather_packed(clone.model, node, codes, name, assignment.store)
    elif codes.block is not None:
        rows = _by_block(clone.model.graph, node, codes, name, assignment.options.weight_dtype)
    else:
        across = assignment.target == "graphopt" and head.op == "MatMul"
        rows = _by_row(clone.model.graph, node, codes, name, across, assignment.options.weight_dtype)
    clone.values[unit.output] = rows


def _by_column(graph: Graph, node: Node, unit: Unit, codes: Codes, name: str) -> Value:
    """DequantizeLinear(Gather(codes)), one scale a column.

    Always int8: onnxruntime mistakes u8 codes for the left operand of a quantized product, and fails on the scales.
    """
    graph.set_input(node, 0, constant(unit.layer.stored(codes.rows), name, "codes"))
    result = node.output
    type, node.output.type = node.output.type, None
    update_types(node)
    rank = getattr(type, "rank", None)
    assert rank is not None
    scale = codes.scale.reshape(-1)
    operands = [result, constant(scale, name, "scale"), constant(np.zeros(scale.shape, np.int8), name, "zero")]
    read = Node(
        "DequantizeLinear", operands, {"axis": rank - 1}, [type], name=f"{node.name}_dequantize" if node.name else ""
    )
    read.made_by = "quantize"
    read.output.name, result.name = result.name, f"{result.name}_codes"
    uses = result.uses
    graph.insert_after(node, read)
    for use in uses:
        owner = use.node.graph
        assert owner is not None
        owner.set_input(use.node, use.slot, read.output)
    return read.output


def _by_row(graph: Graph, node: Node, codes: Codes, name: str, across: bool, dtype: DType | None) -> Value:
    """Gather(codes) · Gather(scale), of the head's own codes and scales.

    across: codes are stored as the head's columns [H, V], and rows gathered along the second axis: slow in onnxruntime,
    for which the head instead reads rows through Transpose (`share_codes`).
    """
    stored, zero = stored_codes(codes.rows[0], dtype)
    new = _Replacement(node)
    table = constant(np.ascontiguousarray(stored.T if across else stored), name, "codes")
    rows = new.emit("Gather", table, new.indices, axis=int(across))
    if across and new.rank > 1:
        rows = new.emit("Transpose", rows, perm=(*range(1, new.rank), 0))
    floats = new.emit("Cast", rows, to=int(DType.FLOAT))
    if zero:
        floats = new.emit("Sub", floats, constant(np.array(zero, np.float32), name, "zero"))
    scale = new.emit("Gather", constant(codes.scale.reshape(-1), name, "scale"), new.indices, axis=0)
    scale = new.emit("Unsqueeze", scale, constant(np.array([-1], np.int64), name, "last"))
    return new.finish(new.emit("Mul", floats, scale))


def _by_block(graph: Graph, node: Node, codes: Codes, name: str, dtype: DType | None) -> Value:
    """(Gather(codes) − zeros) · scales, with zero points and scales per block of a row, spread over the block's inputs.

    ONNX gathers no 4-bit integers, so rows are read from Cast(codes), which onnxruntime folds when it loads.
    """
    assert codes.block is not None
    new, packed = _Replacement(node), codes.bits < 8
    kind = DType.INT4 if packed else dtype
    of_block = constant(np.arange(codes.rows.shape[-1]) // codes.block, name, "block")

    def gathered(array: Array, role: str) -> Value:
        stored = constant(stored_codes(array, kind)[0], name, role, kind)
        whole = new.emit("Cast", stored, to=int(DType.INT8)) if packed else stored
        return new.emit("Cast", new.emit("Gather", whole, new.indices, axis=0), to=int(DType.FLOAT))

    def spread(rows: Value) -> Value:
        return new.emit("Gather", rows, of_block, axis=-1)

    floats = gathered(codes.rows[0], "codes")
    if codes.zero is not None:
        floats = new.emit("Sub", floats, spread(gathered(codes.zero[0], "zero")))
    elif kind is DType.UINT8:
        floats = new.emit("Sub", floats, constant(np.array(128, np.float32), name, "zero"))
    scale = new.emit("Gather", constant(codes.scale[0].copy(), name, "scale"), new.indices, axis=0)
    return new.finish(new.emit("Mul", floats, spread(scale)))


class _Replacement:
    """Builds the nodes that replace a Gather."""

    def __init__(self, node: Node) -> None:
        indices, rank, graph = node.inputs[1], getattr(node.output.type, "rank", None), node.graph
        assert indices is not None and rank is not None and graph is not None
        self.node, self.graph, self.indices, self.rank = node, graph, indices, int(rank)
        self.count = 0

    def emit(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        """Append a node; returns its result."""
        node = self.node
        new = Node(op, inputs, attrs, name=f"{node.name}_{self.count}_{op.lower()}" if node.name else "")
        result = f"{node.output.name}_{op.lower()}{self.count}" if node.output.name else ""
        self.count += 1
        return insert_typed(self.graph, node, new, result)

    def finish(self, result: Value) -> Value:
        """Replace the Gather's result by `result`, with its name and type."""
        wanted = self.node.output.name
        result.type = self.node.output.type
        self.graph.replace_uses(self.node.output, result)
        self.graph.erase(self.node)
        result.name = wanted
        return result


def share_codes(clone: MappedClone) -> None:
    """Let heads read the codes [V, H] of their table, and the scales and zero points [V, B] of its blocks.

    Heads read through Transpose, which onnxruntime folds when it loads.
    """
    graph = clone.model.graph
    nodes = list(graph)
    turned: dict[Value, Value] = {}
    read = (n.inputs[0] for n in nodes if n.op in ("Gather", "Cast") and n.made_by == "quantize")
    for table in dict.fromkeys(read):
        if table is None or table.constant is None or len(table.constant.shape) != 2:
            continue
        rows = table.constant.array()
        for node in nodes:
            for slot, value in enumerate(node.inputs):
                codes = None if value is None else value.constant
                if codes is None or codes.dtype is not table.constant.dtype or codes.shape != rows.shape[::-1]:
                    continue
                if value is table or not np.array_equal(codes.array(), rows.T):
                    continue
                if table not in turned:
                    turned[table] = _transposed(graph, table, nodes[0])
                graph.set_input(node, slot, turned[table])


def _transposed(graph: Graph, source: Value, before: Node) -> Value:
    transpose = Node("Transpose", (source,), {"perm": (1, 0)})
    return insert_typed(graph, before, transpose, f"{source.name}_transposed" if source.name else "")


def share_floats(clone: MappedClone, assignment: Assignment) -> None:
    """Let a float head read its tied float table through Transpose, which onnxruntime folds when it loads."""
    graph = clone.model.graph
    placed = {unit.node for unit in assignment.units}
    turned: dict[Value, Value] = {}
    for table, head in assignment.shared.heads.items():
        if head in placed or table in placed:
            continue
        source, node = clone.nodes[table].inputs[0], clone.nodes[head]
        assert source is not None
        if node.op == "Gemm" and attr(node, "transB", 0):
            graph.set_input(node, 1, source)
            continue
        if source not in turned:
            turned[source] = _transposed(graph, source, node)
        graph.set_input(node, 1, turned[source])


def read_codes_once(clone: MappedClone) -> None:
    """Let tables of one constant share its Cast or Reshape, each of which is computed when a model loads."""
    graph, first = clone.model.graph, dict[tuple[str, Value], Node]()
    for node in list(graph):
        source = node.inputs[0] if node.made_by == "quantize" and node.op in ("Cast", "Reshape") else None
        if source is None or source.constant is None:
            continue
        known = first.setdefault((node.op, source), node)
        if known is not node:
            graph.replace_uses(node.output, known.output)
            graph.erase(node)
