"""Lowering: which integer operation computes which value of a graph, for models in QDQ and QOperator form.

Each matcher looks at one node (the QuantizeLinear, or the operator on codes) and either returns an operation or raises
`Declined` with the reason. Matchers look backwards only, so one walk in the graph's order is enough.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import Declined
from ...ir import DType, Graph, Node, TensorType, Value
from ...kernels.tensors.quantization import Quantization
from ...ops import attr, version_for
from . import dynamic, qoperator, transformer
from .gelu import gelu
from .moves import is_move, moved
from .operands import (
    Weights,
    constant_array,
    integer_bias,
    ints,
    is_constant,
    is_dequantize,
    is_quantize,
    output_dtype,
    quantization_of,
    quantized_weights,
)
from .operations import (
    AveragePool,
    Binary,
    Clamp,
    Concat,
    Conv,
    Coverage,
    Dequantize,
    MatMul,
    MaxPool,
    Operation,
    Quantize,
)
from .resize import resize
from .tables import Island, island
from .vision import float_clamp

_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")


def lower(graph: Graph) -> Coverage:
    """Every value of the root graph that kernels could compute, with its operation; refusals by node."""
    coverage = Coverage()
    islands: dict[Value, Island | None] = {}
    for node in graph:
        try:
            operation = _lower_node(node, coverage, islands)
        except Declined as reason:
            coverage.refusals[node] = str(reason)
            continue
        if operation is not None:
            coverage.providers[operation.output] = operation
    return coverage


def _lower_node(node: Node, coverage: Coverage, islands: dict[Value, Island | None]) -> Operation | None:
    if is_quantize(node):
        return None if is_constant(node.output) else _quantized(node, coverage, islands)
    if is_dequantize(node):
        source = node.inputs[0]
        if source is None or is_constant(source):
            return None
        x = quantization_of(node.input(1), node.input(2))
        return Dequantize(inputs=(source,), output=node.output, nodes=(node,), x=x)
    if node.op in qoperator.MATCHERS:
        return qoperator.MATCHERS[node.op](node)
    if is_move(node) and node.inputs[0] in coverage.providers:
        return moved(node, node.inputs[0], node.output, (node,), coverage.providers)
    source = node.input(0)
    dtype = source.type.dtype if source is not None and isinstance(source.type, TensorType) else None
    if node.op == "MaxPool" and source in coverage.providers and dtype in (DType.INT8, DType.UINT8):
        return _max_pool(node, source, node.output, (node,), dtype is DType.INT8)
    if node.op in dynamic.OPERATORS:
        product = dynamic.dynamic_product(node, coverage.providers)
        if product is not None:
            return product
    if node.op in ("Conv", "Gemm", "MatMul") and not _only_quantized(node.output):
        try:
            return _linear(node, node.output, None, (), None)
        except Declined:
            between = transformer.float_matmul(node, coverage.providers) if node.op == "MatMul" else None
            if between is None:
                raise
            return between
    return _float(node, coverage, islands)


def _float(node: Node, coverage: Coverage, islands: dict[Value, Island | None]) -> Operation | None:
    """The operation of a node whose result is float32, where it can be part of a region."""
    if node.op in transformer.TABULATED:
        found = island(node.output, islands)
        table = None if found is None else transformer.float_table(found, node)
        if table is not None:
            return table
    if node.op in ("Mul", "Gelu", "com.microsoft::Gelu"):
        found_gelu = gelu(node, coverage.providers)
        if found_gelu is not None:
            return found_gelu
    if node.op in ("Relu", "Clip"):
        bounds = _bounds(node)
        return None if bounds is None else float_clamp(node, bounds, coverage.providers)
    if node.op in transformer.MATCHERS:
        return transformer.MATCHERS[node.op](node, coverage.providers)
    if node.op in ("Add", "Sub", "Mul", "Div"):
        return transformer.float_binary(node, coverage.providers)
    if node.op == "LayerNormalization" and node.inputs[0] in coverage.providers and not _only_quantized(node.output):
        return transformer.layer_norm(node, node.output, None, (node,), coverage.providers)
    return None


def _only_quantized(value: Value) -> bool:
    """Every reader is a QuantizeLinear, perhaps behind Relu or Clip: the float result is never needed."""
    readers = [use.node for use in value.uses]
    passing = ("Relu", "Clip")
    return all(is_quantize(n) or (n.op in passing and n.outputs and _only_quantized(n.output)) for n in readers)


def _quantized(node: Node, coverage: Coverage, islands: dict[Value, Island | None]) -> Operation:
    """The operation whose result QuantizeLinear `node` writes."""
    if node.attrs.get("block_size"):
        raise Declined("an activation quantized in blocks")
    y = quantization_of(node.input(1), node.input(2), output_dtype(node))
    x = node.inputs[0]
    assert x is not None
    found = island(x, islands)
    if found is not None:
        return transformer.table_of(found, node, y, coverage.providers)
    anchor, limits, passed = _through_limits(x)
    try:
        matched = _anchored(anchor, node.output, y, (*passed, node), _codes(limits, y), coverage)
    except Declined as reason:
        if anchor is not None:
            coverage.refusals[anchor] = str(reason)
        matched = None
    if matched is not None:
        return matched
    return Quantize(inputs=(x,), output=node.output, nodes=(node,), y=y)


def _through_limits(x: Value) -> tuple[Node | None, list[tuple[float, float]], tuple[Node, ...]]:
    """The node behind Relu and Clip, and their limits from the inside out."""
    limits: list[tuple[float, float]] = []
    passed: list[Node] = []
    node = x.producer
    while node is not None and node.op in ("Relu", "Clip"):
        bounds = _bounds(node)
        if bounds is None or node.inputs[0] is None:
            break
        limits.insert(0, bounds)
        passed.insert(0, node)
        node = node.inputs[0].producer
    return node, limits, tuple(passed)


def _bounds(node: Node) -> tuple[float, float] | None:
    if node.op == "Relu":
        return 0.0, float(np.inf)
    if version_for(node) < 11:
        return float(attr(node, "min", -np.inf)), float(attr(node, "max", np.inf))
    bounds = [-np.inf, np.inf]
    for slot in (1, 2):
        given = node.input(slot)
        if given is None:
            continue
        array = constant_array(given)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        bounds[slot - 1] = float(array.reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None


def _codes(limits: list[tuple[float, float]], y: Quantization) -> Clamp | None:
    """Clipping before QuantizeLinear is clipping of codes behind it: rounding is monotone."""
    low, high = y.low, y.high
    for least, greatest in limits:
        ends = y.quantize(np.array([least, greatest], np.float32))
        low, high = (int(np.clip(v, ends[0], ends[1])) for v in (low, high))
    return None if (low, high) == (y.low, y.high) else (low, high)


def operand(value: Value | None) -> tuple[Value, Quantization]:
    """The codes behind a float value and what they stand for. Declined unless DequantizeLinear makes it."""
    node = None if value is None else value.producer
    if node is None or not is_dequantize(node) or is_constant(node.inputs[0]):
        raise Declined("an input that is not quantized")
    assert node.inputs[0] is not None
    return node.inputs[0], quantization_of(node.input(1), node.input(2))


def _anchored(
    node: Node | None, output: Value, y: Quantization, nodes: tuple[Node, ...], clamp: Clamp | None,
    coverage: Coverage,
) -> Operation | None:  # fmt: skip
    if node is None:
        return None
    if node.op in ("Conv", "Gemm", "MatMul"):
        return _linear(node, output, y, nodes, clamp)
    if node.op in ("Add", "Sub", "Mul") or (node.op == "Sum" and len(node.inputs) == 2):
        return _binary(node, output, y, nodes, clamp)
    if clamp is not None:
        return None
    if node.op in _POOLS:
        return _pool(node, output, y, nodes)
    if node.op == "Resize":
        source, x = operand(node.inputs[0])
        return resize(node, source, output, (node, *nodes), x, y)
    if node.op == "Concat":
        return _concat(node, output, y, nodes)
    if node.op in ("ReduceMean",):
        return _reduce_mean(node, output, y, nodes)
    if node.op == "LayerNormalization":
        return transformer.layer_norm(node, output, y, (node, *nodes), coverage.providers)
    if node.op == "LRN":
        source, x = operand(node.inputs[0])
        return transformer.lrn(node, source, output, (node, *nodes), x, y, None)
    if node.op == "Softmax":
        source, x = operand(node.inputs[0])
        return transformer.softmax(node, source, output, (node, *nodes), x, y)
    return None


def _linear(
    node: Node, output: Value, y: Quantization | None, nodes: tuple[Node, ...], clamp: Clamp | None
) -> Operation:
    source, x = operand(node.inputs[0])
    covered = (node, *nodes)
    if node.op == "MatMul" and not is_constant(node.input(1)):
        if clamp is not None:
            raise Declined("a product of activations that is clipped")
        return transformer.activation_matmul((source, x), operand(node.input(1)), output, covered, y)
    weights = quantized_weights(node.input(1))
    if node.op == "Conv":
        return conv(node, source, output, covered, x, weights, node.input(2), y, clamp)
    if node.op == "MatMul":
        return matmul(source, output, covered, x, weights, None, y, clamp)
    if attr(node, "alpha", 1.0) != 1.0 or attr(node, "transA", 0) or (node.input(2) and attr(node, "beta", 1.0) != 1.0):
        raise Declined("Gemm with factors or a transposed input")
    if attr(node, "transB", 0):
        axis = None if weights.axis is None else 1 - weights.axis
        weights = Weights(weights.codes.T, weights.scale, weights.zero_point, axis)
    return matmul(source, output, covered, x, weights, node.input(2), y, clamp)


def _per_channel(weights: Weights, axis: int, x: Quantization) -> np.ndarray:
    """float32 x scale · weight scale of each output channel, which lie along `axis`."""
    if weights.axis not in (None, axis % weights.codes.ndim):
        raise Declined("weights quantized along another axis than their output channels")
    channels = weights.codes.shape[axis]
    if weights.scale.size not in (1, channels) or weights.zero_point.size not in (1, channels):
        raise Declined("weight scales that do not fit the output channels")
    return np.broadcast_to(np.float32(x.scale) * weights.scale, (channels,)).astype(np.float32)


def conv(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, weights: Weights,
    bias: Value | None, y: Quantization | None, clamp: Clamp | None,
) -> Conv:  # fmt: skip
    """Conv, QLinearConv and their kind on quantized weights."""
    rank = weights.codes.ndim - 2
    if rank not in (1, 2):
        raise Declined(f"a convolution over {rank} axes")
    scale = _per_channel(weights, 0, x)
    return Conv(
        inputs=(source,), output=output, nodes=nodes, x=x, weights=weights.codes,
        weight_zero_point=weights.zero_point if weights.zero_point.any() else 0, scale=scale,
        bias=integer_bias(bias, scale, len(scale)), y=y, clamp=clamp,
        strides=ints(node, "strides", (1,) * rank), pads=ints(node, "pads", (0,) * 2 * rank),
        dilations=ints(node, "dilations", (1,) * rank), groups=int(attr(node, "group", 1)),
        auto_pad=str(attr(node, "auto_pad", "NOTSET")),
    )  # fmt: skip


def matmul(
    source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, weights: Weights, bias: Value | None,
    y: Quantization | None, clamp: Clamp | None,
) -> MatMul:  # fmt: skip
    """MatMul, Gemm, QLinearMatMul and QGemm on quantized weights [K, N]."""
    if weights.codes.ndim != 2:
        raise Declined(f"weights of {weights.codes.ndim} axes")
    scale = _per_channel(weights, 1, x)
    return MatMul(
        inputs=(source,), output=output, nodes=nodes, x=x, weights=weights.codes,
        weight_zero_point=weights.zero_point if weights.zero_point.any() else 0, scale=scale,
        bias=integer_bias(bias, scale, len(scale)), y=y, clamp=clamp,
    )  # fmt: skip


def _binary(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...], clamp: Clamp | None) -> Operation:
    (left, a), (right, b) = operand(node.inputs[0]), operand(node.inputs[1])
    kinds: dict[str, str] = {"Add": "add", "Sum": "add", "Sub": "subtract", "Mul": "multiply"}
    table = None if clamp is None else np.clip(y.codes(), *clamp).astype(y.dtype)
    return Binary(
        inputs=(left, right), output=output, nodes=(node, *nodes), kind=kinds[node.op], a=a, b=b, y=y, table=table  # type: ignore[arg-type]
    )  # fmt: skip


def _pool(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...]) -> Operation:
    covered = (node, *nodes)
    inner = None if node.inputs[0] is None else node.inputs[0].producer
    if node.op == "MaxPool" and inner is not None and inner.op == "LRN":
        assert node.inputs[0] is not None
        pool = _max_pool(node, node.inputs[0], output, covered, y.signed)
        source, x = operand(inner.inputs[0])
        return transformer.lrn(inner, source, output, (inner, *covered), x, y, pool)
    source, x = operand(node.inputs[0])
    if node.op == "MaxPool":
        if x != y:
            raise Declined("MaxPool between different scales")
        return _max_pool(node, source, output, covered, x.signed)
    return average_pool(node, source, output, covered, x, y)


def _max_pool(node: Node, source: Value, output: Value, nodes: tuple[Node, ...], signed: bool) -> MaxPool:
    kernel = ints(node, "kernel_shape", ())
    rank = len(kernel)
    if rank not in (1, 2):
        raise Declined(f"a pool over {rank} axes")
    if len(node.outputs) > 1 and not node.outputs[1].is_unused:
        raise Declined("MaxPool whose indices are used")
    return MaxPool(
        inputs=(source,), output=output, nodes=nodes, signed=signed, kernel=kernel,
        strides=ints(node, "strides", (1,) * rank), pads=ints(node, "pads", (0,) * 2 * rank),
        dilations=ints(node, "dilations", (1,) * rank), ceil_mode=bool(attr(node, "ceil_mode", 0)),
        auto_pad=str(attr(node, "auto_pad", "NOTSET")),
    )  # fmt: skip


def average_pool(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization
) -> AveragePool:
    """AveragePool and GlobalAveragePool of either form; the mean is that of QLinearAveragePool."""
    if node.op_type in ("GlobalAveragePool", "QLinearGlobalAveragePool"):
        return AveragePool(inputs=(source,), output=output, nodes=nodes, x=x, y=y)
    kernel = ints(node, "kernel_shape", ())
    rank = len(kernel)
    if rank not in (1, 2) or any(d != 1 for d in ints(node, "dilations", (1,) * rank)):
        raise Declined("an average over other than one or two axes, or a dilated one")
    return AveragePool(
        inputs=(source,), output=output, nodes=nodes, x=x, y=y, kernel=kernel,
        strides=ints(node, "strides", (1,) * rank), pads=ints(node, "pads", (0,) * 2 * rank),
        count_include_pad=bool(attr(node, "count_include_pad", 0)), ceil_mode=bool(attr(node, "ceil_mode", 0)),
        auto_pad=str(attr(node, "auto_pad", "NOTSET")),
    )  # fmt: skip


def _reduce_mean(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...]) -> Operation:
    source, x = operand(node.inputs[0])
    given = node.input(1)
    axes = ints(node, "axes", ()) if given is None else _integers(given)
    if sorted(axes) not in ([2, 3], [-2, -1]) or not attr(node, "keepdims", 1):
        raise Declined("ReduceMean over other axes than an image's")
    return AveragePool(inputs=(source,), output=output, nodes=(node, *nodes), x=x, y=y)


def _integers(value: Value) -> tuple[int, ...]:
    array = constant_array(value)
    return () if array is None else tuple(int(v) for v in array.reshape(-1).tolist())


def _concat(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...]) -> Concat:
    parts = [operand(value) for value in node.inputs]
    tables = tuple(None if x == y else y.quantize(x.dequantize(x.codes())) for _, x in parts)
    return Concat(
        inputs=tuple(value for value, _ in parts), output=output, nodes=(node, *nodes), axis=int(node.attrs["axis"]),
        tables=tables,
    )  # fmt: skip


Matcher = Callable[[Node], Operation]
