"""Extraction of a segment as an ONNX model, for onnxruntime."""

from __future__ import annotations

from ...ir import Graph, Model, Node, Port, Value, clone_node
from ..lower.computed_shapes import operands_of_same_shape
from ..lower.traits import Operation
from .partition import Segment, sources


def input_name(index: int) -> str:
    """The name of an extracted model's input."""
    return f"graphopt_i{index}"


def output_name(index: int) -> str:
    """The name of an extracted model's output."""
    return f"graphopt_o{index}"


EXACT_PRODUCTS = "graphopt.exact_products"
"""The metadata entry of a segment in which onnxruntime must not round activations: see `_is_rounded_here`."""


COMPUTED_WEIGHTS = "graphopt.computed_weights"
"""The metadata entry of a segment whose stored weights onnxruntime dequantizes at loading."""


def extract(model: Model, segment: Segment, *, computed: bool = False) -> bytes:
    """The bytes of an ONNX file with the nodes of a segment; inputs and outputs are the segment's, named by number.

    `computed`: onnxruntime dequantizes the stored weights at loading.
    """
    from ...onnx_io import to_proto

    values: dict[Value, Value] = {}
    for index, value in enumerate(segment.inputs):
        values[value] = Value(value.type, input_name(index))
    graph = Graph("segment", [values[value] for value in segment.inputs])
    for node in nodes_of(segment):
        _append(graph, node, values)
    ports = [Port(output_name(i), v.type) for i, v in enumerate(segment.outputs)]
    graph.set_outputs([values[value] for value in segment.outputs], ports)
    part = Model(
        graph, opsets=dict(model.opsets), functions=model.functions, ir_version=model.ir_version, folder=model.folder
    )
    if any(_is_rounded_here(segment, value, copy) for value, copy in values.items()):
        part.metadata[EXACT_PRODUCTS] = "1"
    if computed:
        part.metadata[COMPUTED_WEIGHTS] = "1"
    return bytes(to_proto(part).SerializeToString())


def _is_rounded_here(segment: Segment, value: Value, copy: Value) -> bool:
    """Whether onnxruntime rounds the operand of a product with stored weights to 8 bits in the segment, but not in the
    model.

    onnxruntime rounds, block by block, where one product alone reads the weights and its other operand is not
    dequantized.
    """
    node = value.producer
    if node is None or node.op != "DequantizeLinear" or node.constant(0) is None or not copy.has_one_use:
        return False
    makers = (v.producer for v in segment.inputs)
    return not value.has_one_use or any(made is not None and made.op == "DequantizeLinear" for made in makers)


def nodes_of(segment: Segment) -> list[Node]:
    """The nodes that the units of a segment cover."""
    return list(dict.fromkeys(n for u in segment.units for n in (u.nodes if isinstance(u, Operation) else (u,))))


def _append(graph: Graph, node: Node, values: dict[Value, Value]) -> None:
    """Append a copy of the node to the graph, after copies of its missing producers."""
    if node.outputs[0] in values:
        return
    operand = node.inputs[0] if node.op == "Shape" else None
    if operand is not None and operand not in values:
        alike = _of_same_shape(graph, operand, values)
        given = {} if alike is None else {operand: alike}
        graph.append(clone_node(node, given))
        values[node.output] = given[node.output]
        return
    for value in sources(node):
        producer = value.producer
        if value not in values and producer is not None and producer.graph is node.graph:
            _append(graph, producer, values)
    graph.append(clone_node(node, values))


def _of_same_shape(graph: Graph, value: Value, values: dict[Value, Value]) -> Value | None:
    """A value of the new graph with the shape and element type of `value`; None if there is no way to one.

    A value at hand may have the shape although the elements cannot be computed: of x + y, where only x is at hand.
    """
    seen, stack = {value}, [value]
    while stack:
        one = stack.pop()
        if one in values:
            return values[one]
        if one.producer is not None:
            alike = [v for v in operands_of_same_shape(one.producer) if v not in seen and v.type == value.type]
            seen.update(alike)
            stack += alike
    producer = value.producer
    if producer is None or producer.graph is None:
        return value if value.constant is not None else None
    if producer.op not in ("Reshape", "Transpose"):
        if producer.outputs[0] not in values:
            _append(graph, producer, values)
        return values[value]
    source = producer.inputs[0]
    moved = None if source is None else _of_same_shape(graph, source, values)
    for operand in producer.inputs[1:]:
        if operand is not None and operand not in values and operand.producer is not None:
            _append(graph, operand.producer, values)
    if source is None or moved is None:
        return None
    given = {**{v: values[v] for v in producer.inputs if v in values}, source: moved}
    graph.append(clone_node(producer, given))
    return given[value]
