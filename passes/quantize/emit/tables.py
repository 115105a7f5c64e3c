"""Tables of Gather as codes, dequantized row by row as they are read, alone or tied to the head of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import DType, Graph, Node, Value
from ....ops import attr, update_types
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..numerics.grids import Codes
from .constants import constant, stored_codes
from .mapped_clone import MappedClone


def store_table(clone: MappedClone, unit: Unit, codes: Codes, assignment: Assignment) -> None:
    """Gather(W) = dequantized Gather(codes): a scale a column, or a row where a head is tied to the table.

    The copy's value of the unit's output becomes the dequantized one.
    """
    head = assignment.shared.heads.get(unit.node)
    node = clone.nodes[unit.node]
    name = "" if unit.node.inputs[0] is None else unit.node.inputs[0].name
    if head is None:
        rows = _by_column(clone.model.graph, node, unit, codes, name)
    else:
        across = assignment.target == "graphopt" and head.op == "MatMul"
        rows = _by_row(clone.model.graph, node, codes, name, across, assignment.options.weight_dtype)
    clone.values[unit.output] = rows


def _by_column(graph: Graph, node: Node, unit: Unit, codes: Codes, name: str) -> Value:
    """DequantizeLinear(Gather(codes)), one scale a column.

    Always int8: onnxruntime takes u8 behind it for the left side of a quantized product, and fails on its many scales.
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

    across: codes are stored as the head's columns [H, V], from which rows are gathered along the second axis: slow in
    onnxruntime, where the head reads the rows by Transpose (`share_codes`).
    """
    stored, zero = stored_codes(codes.rows[0], dtype)
    indices, rank = node.inputs[1], getattr(node.output.type, "rank", None)
    assert indices is not None and rank is not None
    emitted: list[Node] = []

    def emit(op: str, *inputs: Value, **attrs: Any) -> Value:
        new = Node(op, inputs, attrs, name=f"{node.name}_{len(emitted)}_{op.lower()}" if node.name else "")
        new.made_by = "quantize"
        new.output.name = f"{node.output.name}_{op.lower()}{len(emitted)}" if node.output.name else ""
        graph.insert_before(node, new)
        update_types(new)
        emitted.append(new)
        return new.output

    table = constant(np.ascontiguousarray(stored.T if across else stored), name, "codes")
    rows = emit("Gather", table, indices, axis=int(across))
    if across and rank > 1:
        rows = emit("Transpose", rows, perm=(*range(1, rank), 0))
    floats = emit("Cast", rows, to=int(DType.FLOAT))
    if zero:
        floats = emit("Sub", floats, constant(np.array(zero, np.float32), name, "zero"))
    scale = emit("Gather", constant(codes.scale.reshape(-1), name, "scale"), indices, axis=0)
    scale = emit("Unsqueeze", scale, constant(np.array([-1], np.int64), name, "last"))
    result = emit("Mul", floats, scale)
    wanted = node.output.name
    result.type = node.output.type
    graph.replace_uses(node.output, result)
    graph.erase(node)
    result.name = wanted
    return result


def share_codes(clone: MappedClone) -> None:
    """Let heads read the codes [V, H] of their table by Transpose, which onnxruntime computes once, as it loads."""
    graph = clone.model.graph
    nodes = list(graph)
    turned: dict[Value, Value] = {}
    for table in dict.fromkeys(n.inputs[0] for n in nodes if n.op == "Gather" and n.made_by == "quantize"):
        if table is None or table.constant is None or table.constant.dtype.is_float:  # scales
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
    transpose.made_by = "quantize"
    transpose.output.name = f"{source.name}_transposed" if source.name else ""
    graph.insert_before(before, transpose)
    update_types(transpose)
    return transpose.output


def share_floats(clone: MappedClone, assignment: Assignment) -> None:
    """Let a float head read the float table that it is tied to, by Transpose, which onnxruntime computes once."""
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
