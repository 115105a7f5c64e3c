"""Lowering: for each value of a graph the operation that computes it on kernels, in any form of quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...errors import Declined
from ...ir import DType, Graph, Node, TensorType, Value
from . import dynamic, qoperator, transformer, vision
from .builders import max_pool
from .decoders.attention import attention, rotary
from .decoders.products import PACKED, dequantized_product, packed_product
from .floats import activations, normalizations, resize, selections
from .floats.gelu import gelu, gelu_by_tanh
from .moves import is_move, moved, stays_on_kernels
from .operands import UNQUANTIZED, is_constant, is_dequantize, is_quantize, read_quantization
from .operations import Coverage, Dequantize
from .qdq import PRODUCTS, is_only_quantized, linear, quantized_result
from .tables import Island, island
from .traits import Operation

_FLOAT: dict[str, Callable[[Node, Mapping[Value, Operation]], Operation | None]] = {
    "Softmax": transformer.float_softmax,
    "MaxPool": vision.float_pool,
    "AveragePool": vision.float_pool,
    "GlobalAveragePool": vision.float_pool,
    "HardSigmoid": vision.hard_sigmoid,
    "Relu": vision.float_clamp,
    "Clip": vision.float_clamp,
    "Concat": vision.float_concat,
    "Add": transformer.float_binary,
    "Sum": transformer.float_binary,
    "Sub": transformer.float_binary,
    "Mul": transformer.float_binary,
    "Div": transformer.float_binary,
    "Pow": transformer.square,
    "Where": activations.guarded,
    "InstanceNormalization": normalizations.instance_norm,
    "ReduceMean": normalizations.float_mean,
    "Resize": resize.float_resize,
    **dict.fromkeys(activations.OPERATORS, activations.function_of),
}
"""The lowering function of a float32 node, by its operator."""


_CODES = ("uantize", "QLinear", "QGemm", "Integer", "NBits")
"""Substrings of the names of operators that write, read or multiply codes."""


def has_codes(graph: Graph) -> bool:
    """Whether the graph has operators on codes; without any there is no region, as each has a product of codes."""
    return any(part in node.op for node in graph for part in _CODES)


def uncovered(graph: Graph) -> Coverage:
    """The coverage of a graph without codes."""
    return Coverage(refusals={node: UNQUANTIZED for node in graph if node.op in PRODUCTS})


def lower(graph: Graph) -> Coverage:
    """The operations of the root graph's values that kernels can compute, and by node the reason why there is none."""
    coverage = Coverage()
    islands: dict[Value, Island | None] = {}
    for node in graph:
        try:
            operations = _lower_node(node, coverage, islands)
        except Declined as declined:
            coverage.refusals[node] = declined.reason
            continue
        for operation in operations if isinstance(operations, tuple) else (operations,):
            if operation is not None:
                coverage.providers[operation.output] = operation
    return coverage


def _lower_node(
    node: Node, coverage: Coverage, islands: dict[Value, Island | None]
) -> Operation | tuple[Operation, ...] | None:
    """The operation of the node's first output, or the operations of all outputs; None where kernels have none."""
    if is_quantize(node):
        return None if is_constant(node.output) else quantized_result(node, coverage, islands)
    if is_dequantize(node):
        source = node.inputs[0]
        if source is None or is_constant(source):
            return None
        x = read_quantization(node)
        return Dequantize(inputs=(source,), output=node.output, nodes=(node,), x=x)
    if node.op in qoperator.LOWERINGS:
        return qoperator.LOWERINGS[node.op](node)
    if is_move(node) and node.inputs[0] in coverage.providers:
        return moved(node, node.inputs[0], node.output, (node,), coverage.providers)
    if node.op in selections.OPERATORS and node.inputs[0] in coverage.providers:
        known = coverage.providers
        return selections.selections(node, known, lambda value: stays_on_kernels(value, known))
    source = node.input(0)
    dtype = source.type.dtype if source is not None and isinstance(source.type, TensorType) else None
    if node.op == "MaxPool" and source in coverage.providers and dtype in (DType.INT8, DType.UINT8):
        return max_pool(node, source, node.output, (node,), dtype is DType.INT8)
    if node.op in ("SpaceToDepth", "DepthToSpace") and source in coverage.providers:
        return selections.blocks_moved(node, source, coverage.providers)
    if node.op == PACKED:
        return packed_product(node)
    if node.op in ("Attention", "RotaryEmbedding"):
        return (attention if node.op == "Attention" else rotary)(node, coverage.providers)
    if node.op in dynamic.OPERATORS:
        product = dynamic.dynamic_product(node, coverage.providers)
        if product is not None:
            return product
    if node.op in PRODUCTS and not is_only_quantized(node.output):
        blocked = dequantized_product(node) if node.op == "MatMul" else None
        if blocked is not None:
            return blocked
        try:
            return linear(node, node.output, None, (), None)
        except Declined:
            between = transformer.float_matmul(node, coverage.providers) if node.op == "MatMul" else None
            if between is None:
                raise
            return between
    return _float(node, coverage, islands)


def _float(node: Node, coverage: Coverage, islands: dict[Value, Island | None]) -> Operation | None:
    """The operation of a node whose result is float32; None where it cannot be part of a region."""
    if node.op in transformer.TABULATED:
        function = island(node.output, islands)
        table = None if function is None else transformer.float_table(function, node)
        if table is not None:
            return table
    if node.op in ("Mul", "Gelu", "com.microsoft::Gelu"):
        for spelling in (gelu, gelu_by_tanh, activations.gated) if node.op == "Mul" else (gelu, gelu_by_tanh):
            operation = spelling(node, coverage.providers)
            if operation is not None:
                return operation
    if node.op in ("Mul", "Div"):
        norm = normalizations.rms_norm(node, coverage.providers)
        if norm is not None:
            return norm
    if node.op in _FLOAT:
        return _FLOAT[node.op](node, coverage.providers)
    if node.op in transformer.NORMS and node.inputs[0] in coverage.providers and not is_only_quantized(node.output):
        return transformer.layer_norm(node, node.output, None, (node,), coverage.providers)
    return None
