"""Operands that onnxruntime accepts only while their shape is unknown, made valid before a rewrite makes it known."""

from __future__ import annotations

from ...ir import Constant, Graph, Node, TensorType, Value
from ...pipeline.passes import graph_pass
from ...rewrite import Context


@graph_pass("give-range-scalars")
def give_range_scalars(graph: Graph, context: Context) -> int:
    """Range(start [1], limit [1], delta [1]) = Range(start, limit, delta) of scalars

    The specification requires scalars. onnxruntime accepts vectors of one element while it does not know their shape,
    and refuses the model once folding or inlining reveals it.
    """
    changes = 0
    for node in graph.walk():
        if node.op != "Range":
            continue
        for slot, value in enumerate(node.inputs):
            if value is None or not isinstance(value.type, TensorType) or value.type.shape != (1,):
                continue
            if context.commit("give-range-scalars", node):
                graph.set_input(node, slot, _scalar(graph, node, value, value.type))
                changes += 1
    return changes


def _scalar(graph: Graph, node: Node, value: Value, type: TensorType) -> Value:
    if value.constant is not None:
        return Value(constant=Constant.of(value.constant.array().reshape(())), name=value.name)
    squeeze = Node("Squeeze", (value,), None, (TensorType(type.dtype, ()),), name=node.name)
    squeeze.origins = node.origins
    squeeze.made_by = "give-range-scalars"
    return graph.insert_before(node, squeeze).output
