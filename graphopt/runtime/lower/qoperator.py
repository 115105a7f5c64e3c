"""Lowering of models in QOperator form: QLinearConv, QLinearMatMul and com.microsoft's operators on codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ...errors import Declined
from ...ir import Node, Value
from ...kernels.tensors.quantization import Quantization
from ...ops import attr
from . import transformer
from .builders import average_pool, constant_bias, conv, matmul, with_bias
from .operands import (
    constant_array,
    declared_shape,
    is_constant,
    quantization_of_codes,
    requantization_table,
    stored_weights,
)
from .operations import Binary, Concat, Softmax, Table
from .tables import varying_axis
from .traits import Operation


def _activation(value: Value | None) -> Value:
    if value is None or is_constant(value):
        raise Declined("a constant or missing activation")
    return value


def _codes(node: Node, slot: int) -> Quantization:
    """The quantization of the operand at `slot`, from the scale and zero point in the next two slots."""
    return quantization_of_codes(node.input(slot), node.input(slot + 1), node.input(slot + 2))


def _conv(node: Node) -> Operation:
    _check_channels_first(node)
    x, y = _codes(node, 0), quantization_of_codes(node.output, node.input(6), node.input(7))
    weights = stored_weights(node.input(3), node.input(4), node.input(5), 0)
    bias = constant_bias(node.input(8))
    operation = conv(node, _activation(node.inputs[0]), node.output, (node,), x, weights, None, y, None)
    return with_bias(operation, bias)


def _check_channels_first(node: Node) -> None:
    if node.attrs.get("channels_last"):
        raise Declined("channels last in the file")


def _matmul(node: Node) -> Operation:
    x, y = _codes(node, 0), quantization_of_codes(node.output, node.input(6), node.input(7))
    if not is_constant(node.input(3)):
        left, right = _activation(node.input(0)), _activation(node.input(3))
        return transformer.activation_matmul((left, x), (right, _codes(node, 3)), node.output, (node,), y)
    weights = stored_weights(node.input(3), node.input(4), node.input(5), 1)
    return matmul(_activation(node.inputs[0]), node.output, (node,), x, weights, None, y, None)


def _gemm(node: Node) -> Operation:
    if attr(node, "alpha", 1.0) != 1.0 or attr(node, "transA", 0):
        raise Declined("QGemm with a factor or a transposed input")
    x = _codes(node, 0)
    y = None if node.input(7) is None else quantization_of_codes(node.output, node.input(7), node.input(8))
    transposed = bool(attr(node, "transB", 0))
    weights = stored_weights(node.input(3), node.input(4), node.input(5), 0 if transposed else 1)
    if transposed:
        weights = weights.transpose()
    bias = constant_bias(node.input(6))
    return with_bias(matmul(_activation(node.inputs[0]), node.output, (node,), x, weights, None, y, None), bias)


def _binary(node: Node) -> Operation:
    a, b, y = _codes(node, 0), _codes(node, 3), quantization_of_codes(node.output, node.input(6), node.input(7))
    kind: Literal["add", "multiply"] = "add" if node.op_type == "QLinearAdd" else "multiply"
    for slot, x, scalar, other in ((0, a, b, 3), (3, b, a, 0)):
        fixed = constant_array(node.input(other))
        if fixed is None or fixed.size != 1 or fixed.ndim > 1:
            continue
        value, real = scalar.dequantize(fixed.reshape(())), x.dequantize(x.codes())
        table = y.quantize(real + value if kind == "add" else real * value)
        return Table(inputs=(_activation(node.inputs[slot]),), output=node.output, nodes=(node,), table=table)
    for slot, x, of, other in ((0, a, b, 3), (3, b, a, 0)):
        codes = constant_array(node.input(other))
        axis = None if codes is None else varying_axis(codes, _activation(node.input(slot)))
        if codes is not None and axis is not None:
            values, real = of.dequantize(codes.reshape(-1, 1)), x.dequantize(x.codes())
            found = real + values if kind == "add" else real * values
            return transformer.by_channel(node, _activation(node.input(slot)), axis, x, y, found)
    left, right = node.input(0), node.input(3)
    if left is None or right is None or (is_constant(left) and is_constant(right)):
        raise Declined("constant or missing activations")
    return Binary(inputs=(left, right), output=node.output, nodes=(node,), kind=kind, a=a, b=b, y=y)


def _concat(node: Node) -> Operation:
    y = quantization_of_codes(node.output, node.input(0), node.input(1))
    inputs, tables = [], []
    for slot in range(2, len(node.inputs), 3):
        x = _codes(node, slot)
        inputs.append(_activation(node.input(slot)))
        tables.append(requantization_table(x, y))
    axis = int(node.attrs["axis"])
    return Concat(inputs=tuple(inputs), output=node.output, nodes=(node,), axis=axis, tables=tuple(tables))


def _pool(node: Node) -> Operation:
    _check_channels_first(node)
    x, y = _codes(node, 0), quantization_of_codes(node.output, node.input(3), node.input(4))
    return average_pool(node, _activation(node.inputs[0]), node.output, (node,), x, y)


def _unary(node: Node) -> Operation:
    x, y = _codes(node, 0), quantization_of_codes(node.output, node.input(3), node.input(4))
    real = x.dequantize(x.codes())
    if node.op_type == "QLinearSigmoid":
        with np.errstate(over="ignore"):  # 1 / (1 + inf) = 0, as it should be
            values = np.float32(1) / (np.float32(1) + np.exp(-real))
    else:
        values = np.where(real < 0, real * np.float32(attr(node, "alpha", 0.01)), real)
    table = y.quantize(values.astype(np.float32))
    return Table(inputs=(_activation(node.inputs[0]),), output=node.output, nodes=(node,), table=table)


def _softmax(node: Node) -> Operation:
    x, y = _codes(node, 0), quantization_of_codes(node.output, node.input(3), node.input(4))
    source = _activation(node.input(0))
    usual = -1 if int(attr(node, "opset", 13)) >= 13 else 1  # as ONNX's Softmax of that operator set
    if int(attr(node, "axis", usual)) not in (-1, len(declared_shape(source)) - 1):
        raise Declined("Softmax over other than the last axis")
    return Softmax(inputs=(source,), output=node.output, nodes=(node,), x=x, y=y)


LOWERINGS: dict[str, Callable[[Node], Operation]] = {
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
    "com.microsoft::QLinearSoftmax": _softmax,
}
"""Lowering functions by operator. Each raises Declined where kernels do not take the node."""
