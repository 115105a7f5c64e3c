"""Products of integers that are scaled to floats, as one operator."""

from __future__ import annotations

import numpy as np

from ....analysis.operands import shape_of
from ....errors import Declined
from ....ir import DType, Node, Value
from ....rewrite import Builder, any_value, op, rule, weight
from .epilogues import ONNXRUNTIME

_TO_FLOAT, _WHOLE = "com.microsoft::MatMulIntegerToFloat", "com.microsoft::DynamicQuantizeMatMul"


def _is_number(value: Value) -> bool:
    return shape_of(value) in ((), (1,))


def _is_scale(value: Value, weights: Value) -> bool:
    """One number, or one for each column of the weights."""
    columns = shape_of(weights)
    return _is_number(value) or (columns is not None and len(columns) == 2 and shape_of(value) == columns[1:])


def _float_product(
    build: Builder, a: Value, b: Value, scales: tuple[Value, Value], zeros: tuple[Value | None, Value | None],
    result: Node,
) -> Value:  # fmt: skip
    if not _is_number(scales[0]) or not _is_scale(scales[1], b):
        raise Declined("the scales are not one number for the left factor and one a column for the right one")
    product = build.node(_TO_FLOAT, a, b, *scales, *zeros)
    product.type = result.output.type
    return product


_PRODUCT = op.Cast(
    op.MatMulInteger(any_value("a"), any_value("b"), any_value("za", optional=True), any_value("zb", optional=True)),
    to=int(DType.FLOAT),
)


@rule(op.Mul(_PRODUCT, op.Mul(any_value("s"), any_value("t"), shared=True), name="result"), targets=ONNXRUNTIME)
def scale_integer_product(
    build: Builder, a: Value, b: Value, za: Value | None, zb: Value | None, s: Value, t: Value, result: Node
) -> Value:
    """float((A - za)(B - zb)) (s t) = matmul_integer_to_float(A, B, s, t, za, zb), bit for bit"""
    if s.constant is not None and t.constant is None:
        s, t = t, s
    return _float_product(build, a, b, (s, t), (za, zb), result)


@rule(op.Mul(_PRODUCT, weight("t"), name="result"), targets=ONNXRUNTIME)
def scale_integer_product_by_constant(
    build: Builder, a: Value, b: Value, za: Value | None, zb: Value | None, t: Value, result: Node
) -> Value:
    """float((A - za)(B - zb)) t = matmul_integer_to_float(A, B, 1, t, za, zb), bit for bit: 1 t = t"""
    return _float_product(build, a, b, (build.constant(np.float32(1)), t), (za, zb), result)


_SCALED = op(_TO_FLOAT, _WHOLE)(
    any_value("a"), any_value("b"), *(any_value(f"o{slot}", optional=True) for slot in range(2, 6)), name="product"
)
_BIAS_SLOT = {_TO_FLOAT: 6, _WHOLE: 4}  # inputs of the operators of com.microsoft


@rule(op.Add(_SCALED, weight("bias"), name="result"), targets=ONNXRUNTIME)
def bias_into_integer_product(build: Builder, bias: Value, product: Node, result: Node) -> Value:
    """matmul_integer_to_float(A, B) + b = matmul_integer_to_float(A, B, b), for one number a column, bit for bit

    The same for dynamic_quantize_matmul.
    """
    columns, slot = shape_of(product.inputs[1]), _BIAS_SLOT[product.op]
    if columns is None or len(columns) != 2 or shape_of(bias) != columns[1:] or product.input(slot) is not None:
        raise Declined("the bias is not one number a column, or not the first")
    operands = [product.input(i) for i in range(slot)]
    shifted = build.node(product.op, *operands, bias)
    shifted.type = result.output.type
    return shifted


_CODES = op.DynamicQuantizeLinear(any_value("x"), name="codes")


@rule(
    op[_TO_FLOAT](
        _CODES.out(0), weight("b"), _CODES.out(1), weight("t"), _CODES.out(2), weight("zb", optional=True),
        any_value("bias", optional=True), name="product",
    ),
    targets=ONNXRUNTIME,
)  # fmt: skip
def quantize_in_product(
    build: Builder, x: Value, b: Value, t: Value, zb: Value | None, bias: Value | None, product: Node
) -> Value:
    """matmul_integer_to_float(q(x), B, s(x), t, z(x)) = dynamic_quantize_matmul(x, B, t), where q(x) is used once"""
    if len(shape_of(b) or ()) != 2:
        raise Declined("the weights are not a matrix")
    whole = build.node(_WHOLE, x, b, t, zb, bias)
    whole.type = product.output.type
    return whole
