"""The operator form: QLinearConv and QLinearMatMul in place of pairs around Conv and MatMul.

ONNX has no other operators on codes; what else runs on integers keeps its pairs, which runtimes fuse.
"""

from __future__ import annotations

from ...ir import DType, Graph, Node, TensorType, Value
from ...ops import update_types


def to_operators(graph: Graph) -> int:
    """Q(Conv(DQ(x), DQ(w), DQ(b))) = QLinearConv(x, w, b), and Q(MatMul(DQ(a), DQ(b))) alike; how many were made."""
    made = 0
    for node in graph:
        if node.op == "QuantizeLinear":
            made += _replace(graph, node)
    return made


def _replace(graph: Graph, quantize: Node) -> int:
    source = quantize.inputs[0]
    node = None if source is None else source.producer
    if node is None or node.op not in ("Conv", "MatMul") or not node.output.has_one_use or node.graph is not graph:
        return 0
    operands = [_dequantize(value) for value in node.inputs[:2]]
    bias = None if node.input(2) is None else _dequantize(node.input(2))
    if None in operands or (node.input(2) is not None and (bias is None or bias.inputs[0] is None)):
        return 0
    inputs: list[Value | None] = []
    for operand in operands:
        assert operand is not None
        if len(operand.inputs) < 3 or not _is_byte(operand.inputs[0]):
            return 0
        inputs += operand.inputs[:3]
    inputs += quantize.inputs[1:3]
    if bias is not None:
        inputs.append(bias.inputs[0])
    new = Node(f"QLinear{node.op}", inputs, dict(node.attrs), name=node.name)
    new.origins, new.made_by, new.output.name = node.origins, "quantize", quantize.output.name
    graph.insert_before(quantize, new)
    update_types(new)
    graph.replace_uses(quantize.output, new.output)
    graph.erase(quantize)
    reads = [v.producer for v in node.inputs if v is not None]
    graph.erase(node)
    for read in reads:
        if read is not None and read.output.is_unused:
            graph.erase(read)
    return 1


def _dequantize(value: Value | None) -> Node | None:
    node = None if value is None else value.producer
    return node if node is not None and node.op == "DequantizeLinear" else None


def _is_byte(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype in (DType.UINT8, DType.INT8)
