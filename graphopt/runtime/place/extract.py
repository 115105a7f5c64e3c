"""A segment as a model of its own, for onnxruntime."""

from __future__ import annotations

from ...ir import Graph, Model, Node, Port, Value, clone_node
from ..lower.traits import Operation
from .partition import Segment, sources


def input_name(index: int) -> str:
    """The name of an extracted model's input."""
    return f"graphopt_i{index}"


def output_name(index: int) -> str:
    """The name of an extracted model's output."""
    return f"graphopt_o{index}"


def extract(model: Model, segment: Segment) -> bytes:
    """The nodes of a segment as an ONNX file; its inputs and outputs are the segment's, named by number."""
    from ...onnx_io import to_proto

    values: dict[Value, Value] = {}
    for index, value in enumerate(segment.inputs):
        values[value] = Value(value.type, input_name(index))
    graph = Graph("segment", [values[value] for value in segment.inputs])
    for node in _nodes(segment):
        _append(graph, node, values)
    ports = [Port(output_name(i), v.type) for i, v in enumerate(segment.outputs)]
    graph.set_outputs([values[value] for value in segment.outputs], ports)
    part = Model(
        graph, opsets=dict(model.opsets), functions=model.functions, ir_version=model.ir_version, folder=model.folder
    )
    return bytes(to_proto(part).SerializeToString())


def _nodes(segment: Segment) -> list[Node]:
    return list(dict.fromkeys(n for u in segment.units for n in (u.nodes if isinstance(u, Operation) else (u,))))


def _append(graph: Graph, node: Node, values: dict[Value, Value]) -> None:
    """A copy of the node at the end of the graph, after copies of the producers that are missing there."""
    if node.outputs[0] in values:
        return
    for value in sources(node):
        producer = value.producer
        if value not in values and producer is not None and producer.graph is node.graph:
            _append(graph, producer, values)
    graph.append(clone_node(node, values))
