"""A Loop that runs exactly once is replaced by its body, one that never runs by its initial values."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...ir import Constant, DType, Graph, Node, TensorType, Value
from ...ops import version_for
from ...pipeline.passes import graph_pass
from ...rewrite import Context
from .splice import insert_body


@graph_pass("inline-loops")
def inline_loops(graph: Graph, context: Context) -> int:
    """loop(1, true, x) f = f(0, true, x)"""
    changes = 0
    for inner in reversed(list(graph.graphs())):  # inner loops first: an inlined body is not visited again
        for node in inner:
            body = node.attrs.get("body") if node.op == "Loop" else None
            if not isinstance(body, Graph) or len(body.inputs) != len(node.inputs):
                continue
            trips = trips_of(node, body)
            if trips == 1 and context.commit("inline-loop", node):
                _once(inner, node, body)
                changes += 1
            elif trips == 0 and _carries_all(node) and context.commit("drop-loop", node):
                for out, value in zip(node.outputs, node.inputs[2:]):
                    if value is not None:
                        inner.replace_uses(out, value)
                inner.erase_unused(node)
                changes += 1
    return changes


def trips_of(node: Node, body: Graph) -> Literal[0, 1] | None:
    """The number of iterations of a Loop, if it is known to be 0 or 1; else None."""
    limit, starts = _number(node.input(0)), _number(node.input(1))
    if (limit is not None and limit <= 0) or starts == 0:
        return 0
    runs = node.input(1) is None or starts == 1
    if not runs or (node.input(0) is not None and limit is None):
        return None
    goes_on = body.outputs[0]
    return 1 if limit == 1 or _number(goes_on) == 0 else None


def _number(value: Value | None) -> int | None:
    constant = None if value is None else value.constant
    if constant is None or constant.size != 1 or constant.dtype not in (DType.INT64, DType.BOOL):
        return None
    return int(constant.array().reshape(()))


def _carries_all(node: Node) -> bool:
    """Whether only carried values are used, and all have initial values: scan outputs would be empty."""
    carried = len(node.inputs) - 2
    plain = all(v is not None for v in node.inputs[2:]) and not any(out.is_result for out in node.outputs)
    return plain and all(out.is_unused for out in node.outputs[carried:])


def _once(graph: Graph, node: Node, body: Graph) -> None:
    first = [Value(constant=Constant.of(np.array(0, np.int64))), Value(constant=Constant.of(np.array(True)))]
    results = insert_body(graph, node, body, [*first, *node.inputs[2:]])
    carried = len(node.inputs) - 2
    for i, (old, new) in enumerate(zip(node.outputs, results[1:])):
        graph.replace_uses(old, new if i < carried else _scanned(graph, node, old, new))
    graph.erase(node)


def _scanned(graph: Graph, node: Node, old: Value, one: Value) -> Value:
    """The scan output of one iteration: the value with an axis in front."""
    known = one.type
    type = TensorType(known.dtype, None if known.shape is None else (1, *known.shape)) if isinstance(
        known, TensorType) else old.type  # fmt: skip
    front: tuple[Value, ...] = (Value(constant=Constant.of(np.array([0], np.int64))),)
    attrs = {}
    if version_for(node) < 13:
        front, attrs = (), {"axes": (0,)}
    unsqueeze = Node("Unsqueeze", (one, *front), attrs, [type], name=node.name)
    unsqueeze.origins, unsqueeze.made_by = node.origins, "inline-loops"
    return graph.insert_before(node, unsqueeze).output
