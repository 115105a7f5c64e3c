"""QOperator form: QLinearConv and other integer operators in place of an operator between dq and q.

ONNX has QLinearConv and QLinearMatMul, onnxruntime's CPU provider some more. They round once where the pairs round
several times, so a code may differ by one step. onnxruntime fuses the pairs into the same kernels by itself when it
loads a model: `optimize` therefore writes pairs, and this pass runs on demand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import Declined
from ...ir import DType, Graph, Node, TensorType, Value
from ...ops import update_types
from ...pipeline.passes import graph_pass
from ...rewrite import Builder, Context
from .grids import Grid, grid_of


def to_operators(graph: Graph, context: Context | None = None) -> int:
    """q(conv(dq(x), dq(w), dq(b))) = qlinear_conv(x, w, b), and MatMul alike; returns the number of operators."""
    context = context or Context()
    return sum(_replace(graph, node, context) for node in graph if node.op == "QuantizeLinear")


def _replace(graph: Graph, quantize: Node, context: Context) -> int:
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
    if not context.commit("use-integer-operator", node):
        return 0
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


@graph_pass("use-integer-operators", exact=False)
def use_integer_operators(graph: Graph, context: Context) -> int:
    """q(f(dq(x), dq(y))) = qlinear_f(x, y), up to one step of a code

    Conv and MatMul for any target; Sigmoid, LeakyRelu, pools by averages, sums, products and Concat for onnxruntime.
    """
    changes = 0
    for owner in list(graph.graphs()):
        changes += to_operators(owner, context)
        for write in list(owner):
            if write.op == "QuantizeLinear" and write.graph is owner:
                changes += _on_codes(owner, write, context)
    return changes


def _on_codes(graph: Graph, write: Node, context: Context) -> int:
    grid, node = grid_of(write), None if write.inputs[0] is None else write.inputs[0].producer
    make = None if node is None or node.domain else _MAKERS.get(node.op)
    if node is None or make is None or grid is None or not node.output.has_one_use or node.graph is not graph:
        return 0
    reads = [_dequantize(value) for value in node.inputs if value is not None]
    grids = [None if read is None else grid_of(read) for read in reads]
    build = Builder(graph, context)
    operands: list[Value | None] = []
    for read, source in zip(reads, grids):
        if read is None or source is None:
            return 0
        operands += [read.inputs[0], *_scale(build, source)]
    try:
        codes = make(build, node, operands, _scale(build, grid))
    except Declined:
        return 0
    if not context.commit("use-integer-operator", node):
        return 0
    codes.type = write.output.type
    build.nodes[-1].name = node.name
    build.insert_before(write, (node, write))
    graph.replace_uses(write.output, codes)
    graph.erase_unused(write)
    return 1


def _scale(build: Builder, grid: Grid) -> tuple[Value, Value]:
    return build.constant(np.float32(grid.scale)), build.constant(np.array(grid.zero, grid.dtype))


_Maker = Callable[[Builder, Node, list["Value | None"], "tuple[Value, Value]"], Value]


def _plain(build: Builder, node: Node, operands: list[Value | None], result: tuple[Value, Value]) -> Value:
    return build.node(f"com.microsoft::QLinear{node.op}", *operands, *result, attrs=node.attrs)


def _average(build: Builder, node: Node, operands: list[Value | None], result: tuple[Value, Value]) -> Value:
    if any(step != 1 for step in node.attrs.get("dilations", ())):
        raise Declined("the window is dilated")
    return build.node(f"com.microsoft::QLinear{node.op}", *operands, *result, channels_last=0, attrs=node.attrs)


def _concat(build: Builder, node: Node, operands: list[Value | None], result: tuple[Value, Value]) -> Value:
    return build.node("com.microsoft::QLinearConcat", *result, *operands, axis=node.attrs["axis"])


_MAKERS: dict[str, _Maker] = {
    "Sigmoid": _plain, "LeakyRelu": _plain, "Add": _plain, "Mul": _plain, "AveragePool": _average,
    "GlobalAveragePool": _average, "Concat": _concat,
}  # fmt: skip
