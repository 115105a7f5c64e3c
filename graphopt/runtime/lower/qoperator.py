"""Matchers of operators on codes: QLinearConv, QLinearMatMul and those of com.microsoft."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import Declined
from ...ir import Node, Value
from ...ops import attr
from .operands import constant_array, is_constant, quantization_of, stored_weights
from .operations import Binary, Concat, Operation, Table


def _source(value: Value | None) -> Value:
    if value is None or is_constant(value):
        raise Declined("a constant or missing activation")
    return value


def _conv(node: Node) -> Operation:
    from .lowering import conv

    if node.attrs.get("channels_last"):
        raise Declined("channels last in the file")
    x, y = quantization_of(node.input(1), node.input(2)), quantization_of(node.input(6), node.input(7))
    weights = stored_weights(node.input(3), node.input(4), node.input(5), 0)
    bias = constant_array(node.input(8))
    if node.input(8) is not None and (bias is None or bias.dtype != np.int32):
        raise Declined("a bias that is not constant")
    made = conv(node, _source(node.inputs[0]), node.output, (node,), x, weights, None, y, None)
    return made if bias is None else _with_bias(made, bias)


def _with_bias(made: Operation, bias: np.ndarray) -> Operation:
    from dataclasses import replace

    from .operations import LinearOperation

    assert isinstance(made, LinearOperation)
    if bias.size not in (1, len(made.scale)):
        raise Declined("a bias that does not fit the output channels")
    return replace(made, bias=np.broadcast_to(bias.reshape(-1), made.scale.shape))


def _matmul(node: Node) -> Operation:
    from .lowering import matmul

    x, y = quantization_of(node.input(1), node.input(2)), quantization_of(node.input(6), node.input(7))
    weights = stored_weights(node.input(3), node.input(4), node.input(5), 1)
    return matmul(_source(node.inputs[0]), node.output, (node,), x, weights, None, y, None)


def _gemm(node: Node) -> Operation:
    from .lowering import matmul
    from .operands import Weights

    if attr(node, "alpha", 1.0) != 1.0 or attr(node, "transA", 0):
        raise Declined("QGemm with a factor or a transposed input")
    x = quantization_of(node.input(1), node.input(2))
    y = None if node.input(7) is None else quantization_of(node.input(7), node.input(8))
    transposed = bool(attr(node, "transB", 0))
    weights = stored_weights(node.input(3), node.input(4), node.input(5), 0 if transposed else 1)
    if transposed:
        axis = None if weights.axis is None else 1
        weights = Weights(weights.codes.T, weights.scale, weights.zero_point, axis)
    bias = constant_array(node.input(6))
    if node.input(6) is not None and (bias is None or bias.dtype != np.int32):
        raise Declined("a bias that is not constant")
    made = matmul(_source(node.inputs[0]), node.output, (node,), x, weights, None, y, None)
    return made if bias is None else _with_bias(made, bias)


def _binary(node: Node) -> Operation:
    a, b = quantization_of(node.input(1), node.input(2)), quantization_of(node.input(4), node.input(5))
    y = quantization_of(node.input(6), node.input(7))
    kind = "add" if node.op_type == "QLinearAdd" else "multiply"
    for slot, x, scalar, other in ((0, a, b, 3), (3, b, a, 0)):
        fixed = constant_array(node.input(other))
        if fixed is None or fixed.size != 1 or fixed.ndim > 1:
            continue
        value, real = scalar.dequantize(fixed.reshape(())), x.dequantize(x.codes())
        table = y.quantize(real + value if kind == "add" else real * value)
        return Table(inputs=(_source(node.inputs[slot]),), output=node.output, nodes=(node,), table=table)
    inputs = (_source(node.input(0)), _source(node.input(3)))
    return Binary(inputs=inputs, output=node.output, nodes=(node,), kind=kind, a=a, b=b, y=y)  # type: ignore[arg-type]


def _concat(node: Node) -> Operation:
    y = quantization_of(node.input(0), node.input(1))
    inputs, tables = [], []
    for slot in range(2, len(node.inputs), 3):
        x = quantization_of(node.input(slot + 1), node.input(slot + 2))
        inputs.append(_source(node.input(slot)))
        tables.append(None if x == y else y.quantize(x.dequantize(x.codes())))
    axis = int(node.attrs["axis"])
    return Concat(inputs=tuple(inputs), output=node.output, nodes=(node,), axis=axis, tables=tuple(tables))


def _pool(node: Node) -> Operation:
    from .lowering import average_pool

    if node.attrs.get("channels_last"):
        raise Declined("channels last in the file")
    x, y = quantization_of(node.input(1), node.input(2)), quantization_of(node.input(3), node.input(4))
    return average_pool(node, _source(node.inputs[0]), node.output, (node,), x, y)


def _unary(node: Node) -> Operation:
    x, y = quantization_of(node.input(1), node.input(2)), quantization_of(node.input(3), node.input(4))
    real = x.dequantize(x.codes())
    if node.op_type == "QLinearSigmoid":
        with np.errstate(over="ignore"):  # 1 / (1 + inf) = 0, as it should be
            values = np.float32(1) / (np.float32(1) + np.exp(-real))
    else:
        values = np.where(real < 0, real * np.float32(attr(node, "alpha", 0.01)), real)
    table = y.quantize(values.astype(np.float32))
    return Table(inputs=(_source(node.inputs[0]),), output=node.output, nodes=(node,), table=table)


MATCHERS: dict[str, Callable[[Node], Operation]] = {
    "QLinearConv": _conv,
    "com.microsoft::QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "com.microsoft::QGemm": _gemm,
    "com.microsoft::QLinearAdd": _binary,
    "com.microsoft::QLinearMul": _binary,
    "com.microsoft::QLinearConcat": _concat,
    "com.microsoft::QLinearGlobalAveragePool": _pool,
    "com.microsoft::QLinearAveragePool": _pool,
    "com.microsoft::QLinearSigmoid": _unary,
    "com.microsoft::QLinearLeakyRelu": _unary,
}
