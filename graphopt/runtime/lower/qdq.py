"""Lowering of models in QDQ form: an operator between DequantizeLinear and QuantizeLinear becomes one on codes.

Lowering looks backwards from a node, so that one walk in the graph's order suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from ...errors import Declined
from ...ir import Node, Value
from ...kernels.tensors.quantization import Quantization
from ...ops import attr
from . import transformer, vision
from .builders import average_pool, conv, conv_transpose, matmul, max_pool
from .floats import selections
from .floats.resize import resize
from .moves import stays_on_kernels
from .operands import (
    constant_array,
    dequantized_source,
    ints,
    is_constant,
    is_quantize,
    quantized_weights,
    requantization_table,
    written_quantization,
)
from .operations import AveragePool, Binary, Clamp, Concat, Coverage, LayerNorm, Quantize
from .tables import Island, island
from .traits import Operation

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply and accumulate, by weights or by a second activation."""

_OF_CODES: dict[str, Callable[[Node, Value, Value, tuple[Node, ...], Quantization, Quantization], Operation]] = {
    "AveragePool": average_pool, "GlobalAveragePool": average_pool, "LRN": vision.lrn,
    "Softmax": transformer.softmax,
}  # fmt: skip
"""Builders of operations from codes to codes, by an operator of one quantized tensor."""

_BINARY: dict[str, Literal["add", "subtract", "multiply"]] = {
    "Add": "add", "Sum": "add", "Sub": "subtract", "Mul": "multiply",
}  # fmt: skip


def is_only_quantized(value: Value) -> bool:
    """Whether every reader is a QuantizeLinear, optionally behind Relu or Clip, so that no float result is needed."""
    readers = [use.node for use in value.uses]
    passing = ("Relu", "Clip")
    return all(is_quantize(n) or (n.op in passing and n.outputs and is_only_quantized(n.output)) for n in readers)


def quantized_result(node: Node, coverage: Coverage, islands: dict[Value, Island | None]) -> Operation:
    """The operation on codes whose last node is QuantizeLinear `node`, covering at least that node."""
    if node.attrs.get("block_size"):
        raise Declined("an activation quantized in blocks")
    if vision.is_by_channel(node):
        return vision.quantized_by_channel(node, coverage.providers, islands)
    y = written_quantization(node)
    x = node.inputs[0]
    assert x is not None
    function = island(x, islands)
    if function is not None:
        return transformer.quantized_table(function, node, y, coverage.providers)
    anchor, limits, passed = _through_limits(x)
    if anchor is not None:
        try:
            if anchor.op in selections.OPERATORS and not limits:
                return _selected(anchor, x, node, y, coverage.providers)
            if anchor.op == "BatchNormalization":
                return vision.quantized_by_channel(node, coverage.providers, islands)
            operation = _between(anchor, node.output, y, (*passed, node), _code_limits(limits, y), coverage)
        except Declined as declined:
            coverage.refusals[anchor] = declined.reason
        else:
            if operation is not None:
                return operation
    before = coverage.providers.get(x)
    if isinstance(before, LayerNorm) and before.y is None and len(x.uses) == 1:
        return replace(before, output=node.output, nodes=(*before.nodes, node), y=y)
    return Quantize(inputs=(x,), output=node.output, nodes=(node,), y=y)


def _through_limits(x: Value) -> tuple[Node | None, list[tuple[float, float]], tuple[Node, ...]]:
    """The producer before a chain of Relu and Clip; their limits, innermost first; and their nodes in that order."""
    limits: list[tuple[float, float]] = []
    passed: list[Node] = []
    node = x.producer
    while node is not None and node.op in ("Relu", "Clip"):
        bounds = vision.clip_bounds(node)
        if bounds is None or node.inputs[0] is None:
            break
        limits.insert(0, bounds)
        passed.insert(0, node)
        node = node.inputs[0].producer
    return node, limits, tuple(passed)


def _code_limits(limits: list[tuple[float, float]], y: Quantization) -> Clamp | None:
    """The limits of codes that equal clipping before QuantizeLinear, as rounding is monotone; None for no clipping."""
    low, high = y.low, y.high
    for least, greatest in limits:
        ends = y.quantize(np.array([least, greatest], np.float32))
        low, high = (int(np.clip(v, ends[0], ends[1])) for v in (low, high))
    return None if (low, high) == (y.low, y.high) else (low, high)


def _between(
    node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...], clamp: Clamp | None, coverage: Coverage
) -> Operation | None:  # fmt: skip
    """The operation of `node` with the QuantizeLinear behind it, clipped to `clamp`; None where kernels have none."""
    if node.op in PRODUCTS:
        return linear(node, output, y, nodes, clamp)
    if node.op in ("Add", "Sub", "Mul") or (node.op == "Sum" and len(node.inputs) == 2):
        return _binary(node, output, y, nodes, clamp)
    if clamp is not None:
        return None
    if node.op in _OF_CODES:
        source, x = dequantized_source(node.inputs[0])
        return _OF_CODES[node.op](node, source, output, (node, *nodes), x, y)
    if node.op == "Resize":
        known, (source, x) = coverage.providers, dequantized_source(node.inputs[0])
        return resize(node, source, output, (node, *nodes), x, y, lambda value: stays_on_kernels(value, known))
    if node.op == "MaxPool":
        return _max_pool(node, output, y, nodes, coverage)
    if node.op == "Div":
        return vision.spelled_lrn(node, output, (node, *nodes), y)
    if node.op == "Concat":
        return _concat(node, output, y, nodes)
    if node.op == "ReduceMean":
        return _reduce_mean(node, output, y, nodes)
    if node.op in transformer.NORMS:
        return transformer.layer_norm(node, output, y, (node, *nodes), coverage.providers)
    return None


def linear(
    node: Node, output: Value, y: Quantization | None, nodes: tuple[Node, ...], clamp: Clamp | None
) -> Operation:
    """Conv, Gemm or MatMul of dequantized operands, to codes of `y`, or to float32 where `y` is None."""
    source, x = dequantized_source(node.inputs[0])
    covered = (node, *nodes)
    if node.op == "MatMul" and not is_constant(node.input(1)):
        if clamp is not None:
            raise Declined("a product of activations that is clipped")
        return transformer.activation_matmul((source, x), dequantized_source(node.input(1)), output, covered, y)
    weights = quantized_weights(node.input(1))
    if node.op in ("Conv", "ConvTranspose"):
        build = conv if node.op == "Conv" else conv_transpose
        return build(node, source, output, covered, x, weights, node.input(2), y, clamp)
    if node.op == "MatMul":
        return matmul(source, output, covered, x, weights, None, y, clamp)
    if attr(node, "alpha", 1.0) != 1.0 or attr(node, "transA", 0) or (node.input(2) and attr(node, "beta", 1.0) != 1.0):
        raise Declined("Gemm with factors or a transposed input")
    if attr(node, "transB", 0):
        weights = weights.transpose()
    return matmul(source, output, covered, x, weights, node.input(2), y, clamp)


def _binary(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...], clamp: Clamp | None) -> Operation:
    (left, a), (right, b) = dequantized_source(node.inputs[0]), dequantized_source(node.inputs[1])
    table = None if clamp is None else np.clip(y.codes(), *clamp).astype(y.dtype)
    return Binary(
        inputs=(left, right), output=output, nodes=(node, *nodes), kind=_BINARY[node.op], a=a, b=b, y=y, table=table
    )  # fmt: skip


def _max_pool(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...], coverage: Coverage) -> Operation:
    """MaxPool of its input's codes, requantized; or fused into an LRN before it; or of another reader's codes."""
    covered = (node, *nodes)
    inner = None if node.inputs[0] is None else node.inputs[0].producer
    if inner is not None and inner.op == "LRN":
        assert node.inputs[0] is not None
        pool = max_pool(node, node.inputs[0], output, covered, y.signed)
        source, x = dequantized_source(inner.inputs[0])
        return vision.lrn(inner, source, output, (inner, *covered), x, y, pool)
    if inner is not None and inner.op == "Div":
        assert node.inputs[0] is not None
        pool = max_pool(node, node.inputs[0], output, covered, y.signed)
        spelled = vision.spelled_lrn(inner, output, (inner, *covered), y, pool)
        if spelled is not None:
            return spelled
    codes = _codes_of(node.inputs[0], y, coverage)
    if codes is not None:  # q(max(x)) = max(q(x))
        return max_pool(node, codes, output, covered, y.signed)
    source, x = dequantized_source(node.inputs[0])
    pool = max_pool(node, source, output, covered, x.signed)
    return replace(pool, table=requantization_table(x, y))


def _codes_of(value: Value | None, y: Quantization, coverage: Coverage) -> Value | None:
    """The codes of a float value that another QuantizeLinear, earlier in the graph, computes by `y`; else None."""
    for use in () if value is None else value.uses:
        if is_quantize(use.node) and use.node.output in coverage.providers:
            if coverage.providers[use.node.output].nodes[-1] is not use.node:
                continue
            if written_quantization(use.node) == y:
                return use.node.output
    return None


def _reduce_mean(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...]) -> Operation:
    source, x = dequantized_source(node.inputs[0])
    axes_value = node.input(1)
    axes = ints(node, "axes", ()) if axes_value is None else _integers(axes_value)
    if sorted(axes) not in ([2, 3], [-2, -1]) or not attr(node, "keepdims", 1):
        raise Declined("ReduceMean over other axes than an image's")
    return AveragePool(inputs=(source,), output=output, nodes=(node, *nodes), x=x, y=y)


def _selected(
    node: Node, x: Value, quantize: Node, y: Quantization, known: Mapping[Value, Operation]
) -> Operation:  # fmt: skip
    """The operation on codes of a `node` that only selects, repeats or pads elements, requantized to `y`."""
    source, own = dequantized_source(node.inputs[0])
    table, nodes = requantization_table(own, y), (node, quantize)
    if node.op == "Expand":
        if table is not None:
            raise Declined("Expand between different scales")
        return selections.expanded(
            node, source, quantize.output, nodes, floats=False, at_hand=lambda v: stays_on_kernels(v, known)
        )
    if node.op == "Pad":
        return selections.padded_between(node, source, quantize.output, nodes, y, table)
    at = node.outputs.index(x)
    return selections.selected(
        node, source, at, quantize.output, nodes, table=table, at_hand=lambda v: stays_on_kernels(v, known)
    )


def _integers(value: Value) -> tuple[int, ...]:
    array = constant_array(value)
    return () if array is None else tuple(int(v) for v in array.reshape(-1).tolist())


def _concat(node: Node, output: Value, y: Quantization, nodes: tuple[Node, ...]) -> Concat:
    parts = [dequantized_source(value) for value in node.inputs]
    tables = tuple(requantization_table(x, y) for _, x in parts)
    return Concat(
        inputs=tuple(value for value, _ in parts), output=output, nodes=(node, *nodes), axis=int(node.attrs["axis"]),
        tables=tables,
    )  # fmt: skip
