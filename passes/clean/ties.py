"""A head tied to the embedding table is stored once, even where an exporter wrote a second copy."""

from __future__ import annotations

import numpy as np

from ...ir import Constant, Graph, Value
from ...pipeline.passes import graph_pass
from ...rewrite import Builder, Context

_LEAST = 1 << 20
"""Bytes from which a second copy is worth replacing by a node: a thousand times the node's bytes in a file."""

_ROWS = 1024
"""Rows compared at a time, so that no copy is made in memory; not tuned."""


@graph_pass("tie-heads")
def tie_heads(graph: Graph, context: Context) -> int:
    """x W = x transpose(T), where W is the transpose of a table T from which the model gathers

    onnxruntime transposes T once, when it loads the model. Not for other targets, which may transpose in every run.
    """
    if context.target == "graphopt":
        return 0
    gathered = (_table(node.inputs[0]) for node in graph if node.op == "Gather")
    tables = list(dict.fromkeys(table for table in gathered if table is not None))
    changes = 0
    for node in list(graph) if tables else ():
        weight = node.inputs[1] if node.op == "MatMul" else None
        tied = (table for table in tables if weight is not None and _is_transpose(weight.constant, table.constant))
        table = next(tied, None)
        if weight is None or table is None or not context.commit("tie-head", node):
            continue
        build = Builder(graph, context)
        turned = build.Transpose(table, perm=[1, 0])
        build.insert_before(node, [node])
        graph.set_input(node, 1, turned)
        changes += 1
    return changes


def _table(value: Value | None) -> Value | None:
    """A large constant matrix."""
    constant = None if value is None else value.constant
    fits = constant is not None and len(constant.shape) == 2 and constant.dtype.is_float and constant.nbytes >= _LEAST
    return value if fits else None


def _is_transpose(weight: Constant | None, table: Constant | None) -> bool:
    if weight is None or table is None or weight.dtype is not table.dtype or weight.shape != table.shape[::-1]:
        return False
    columns, rows = weight.array(), table.array()
    return all(np.array_equal(columns[:, i : i + _ROWS].T, rows[i : i + _ROWS]) for i in range(0, len(rows), _ROWS))
