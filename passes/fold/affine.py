"""Constants that are added to or multiplied with the result of a linear operator move into its bias and weight.

A Squeeze between a Conv and these, or an activation, comes after them: Keras exports one-dimensional convolutions so.
"""

from __future__ import annotations

import numpy as np

from ...analysis.operands import integers
from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, Leaf, OpPattern, any_value, constant, op, rule, weight
from .channels import WIDE_FLOATS, channel_bias, constant_second, elementwise, factor_of, shift_of, spread
from .weights import rounded, scale_conv_outputs, scaled_weight


def _conv(bias: Leaf) -> OpPattern:
    return op("Conv", "ConvTranspose")(any_value("x"), weight("w"), bias, name="conv")


def _gemm(bias: Leaf) -> OpPattern:
    return op.Gemm(any_value("x"), weight("w"), bias, name="gemm")


def _conv_channels(conv: Node, w: Value) -> int:
    """The output channels of a Conv or ConvTranspose."""
    assert w.constant is not None
    if w.constant.dtype not in WIDE_FLOATS:
        raise Declined("the weight is not single or double precision")
    shape = w.constant.shape
    return shape[0] if conv.op == "Conv" else shape[1] * int(attr(conv, "group", 1))


def _columns(w: Value, transposed: bool) -> int:
    """The columns of a matrix, or of its transpose."""
    if w.constant is None or len(w.constant.shape) != 2 or w.constant.dtype not in WIDE_FLOATS:
        raise Declined("the weight is not a matrix in single or double precision")
    return w.constant.shape[0 if transposed else 1]


@rule(op("Add", "Sub")(_conv(constant("b", optional=True)), constant("c"), name="sum"), min_opset=7)
def add_into_conv(build: Builder, x: Value, w: Value, b: Array | None, c: Array, conv: Node, sum: Node) -> Value:
    """(W x + b) + c = W x + (b + c), for one c a channel"""
    constant_second(sum, conv.output)
    channels = _conv_channels(conv, w)
    assert w.constant is not None
    moved = spread(shift_of(sum, c), len(w.constant.shape), 1, channels)
    return build.copy(conv, [x, w, rounded(channel_bias(b, channels) + moved, w)])


@rule(op("Mul", "Div")(_conv(constant("b", optional=True)), constant("c"), name="product"), min_opset=7)
def multiply_into_conv(
    build: Builder, x: Value, w: Value, b: Array | None, c: Array, conv: Node, product: Node
) -> Value:
    """(W x + b) c = (c W) x + c b, for one c a channel"""
    constant_second(product, conv.output)
    channels = _conv_channels(conv, w)
    assert w.constant is not None
    factor = spread(factor_of(product, c), len(w.constant.shape), 1, channels)
    scaled = build.constant(scale_conv_outputs(build, conv, w, factor), w.name)
    bias = None if b is None else rounded(channel_bias(b, channels) * factor, w)
    return build.copy(conv, [x, scaled, bias])


@rule(op("Add", "Sub")(_gemm(constant("b", optional=True)), constant("c"), name="sum"), min_opset=7)
def add_into_gemm(build: Builder, x: Value, w: Value, b: Array | None, c: Array, gemm: Node, sum: Node) -> Value:
    """(alpha A B + beta b) + c = alpha A B + (beta b + c), for one c a column"""
    constant_second(sum, gemm.output)
    columns = _columns(w, bool(attr(gemm, "transB", 0)))
    bias = float(attr(gemm, "beta", 1.0)) * channel_bias(b, columns) + spread(shift_of(sum, c), 2, 1, columns)
    return build.copy(gemm, [x, w, rounded(bias, w)], beta=1.0)


@rule(op("Mul", "Div")(_gemm(constant("b", optional=True)), constant("c"), name="product"), min_opset=7)
def multiply_into_gemm(
    build: Builder, x: Value, w: Value, b: Array | None, c: Array, gemm: Node, product: Node
) -> Value:
    """(alpha A B + beta b) c = alpha A (B c) + beta (b c), for one c a column"""
    constant_second(product, gemm.output)
    transposed = attr(gemm, "transB", 0)
    factor = spread(factor_of(product, c), 2, 1, _columns(w, bool(transposed)))
    scaled = scaled_weight(build, w, factor[:, None] if transposed else factor)
    bias = None if b is None else rounded(channel_bias(b, factor.size) * factor, w)
    if b is None and build.opset < 11:
        raise Declined("Gemm needs a bias before opset 11")
    return build.copy(gemm, [x, build.constant(scaled, w.name), bias])


@rule(op("Mul", "Div")(op.MatMul(any_value("x"), weight("w"), name="matmul"), constant("c"), name="product"),
      min_opset=7)  # fmt: skip
def multiply_into_matmul(build: Builder, x: Value, w: Value, c: Array, matmul: Node, product: Node) -> Value:
    """(A B) c = A (B c), for one c a column"""
    constant_second(product, matmul.output)
    columns = _columns(w, False)
    rank = x.type.rank if isinstance(x.type, TensorType) else None
    if rank is None or rank < 2:
        raise Declined("the rank is not known to be 2 or more")
    factor = spread(factor_of(product, c), rank, rank - 1, columns)
    return build.MatMul(x, build.constant(scaled_weight(build, w, factor), w.name))


@rule(op.Add(op.MatMul(any_value("x"), any_value("w")), any_value("c")), min_opset=7)
def join_product_and_sum(build: Builder, x: Value, w: Value, c: Value) -> Value:
    """A B + c = Gemm(A, B, c), for matrices A and B in floating point and a c that does not widen the product"""
    types = [v.type for v in (x, w, c)]
    if not all(isinstance(t, TensorType) and t.dtype in WIDE_FLOATS for t in types):
        raise Declined("not in single or double precision")
    a, b, d = (t.shape for t in types if isinstance(t, TensorType))
    if a is None or b is None or d is None or len(a) != 2 or len(b) != 2 or len(d) > 2:
        raise Declined("not a product of matrices")
    wide = (1,) * (2 - len(d)) + d
    if any(size != 1 and not (isinstance(size, int) and size == whole) for size, whole in zip(wide, (a[0], b[1]))):
        raise Declined("the sum may widen the product")
    return build.Gemm(x, w, c)


_SQUEEZED = op.Squeeze(any_value("y"), any_value("axes", optional=True), name="squeeze")


def _axes_behind_conv(y: Value, squeeze: Node) -> list[int]:
    """The axes that a Squeeze takes from the result of a Conv, of a known rank, that nothing else reads."""
    axes, rank = integers(squeeze, 1, "axes"), y.type.rank if isinstance(y.type, TensorType) else None
    if y.producer is None or y.producer.op not in ("Conv", "ConvTranspose"):
        raise Declined("there is no convolution before it")
    if len(y.users) != 1 or y.is_result:
        raise Declined("the convolution is read elsewhere, too")
    if axes is None or rank is None:
        raise Declined("the axes are not known")
    return [axis % rank for axis in axes]


@rule(op("Add", "Sub", "Mul", "Div")(_SQUEEZED, constant("c"), name="f"), min_opset=7)
def apply_before_squeeze(build: Builder, y: Value, c: Array, squeeze: Node, f: Node) -> Value:
    """f(squeeze(W x), c) = squeeze(f(W x, c)), where c gets the axes that squeeze takes"""
    constant_second(f, squeeze.output)
    axes, kept = _axes_behind_conv(y, squeeze), elementwise(squeeze.output, f).rank
    assert kept is not None
    wide = np.expand_dims(c.reshape((1,) * (kept - c.ndim) + c.shape), tuple(axes))
    return build.copy(squeeze, [build.copy(f, [y, wide]), *squeeze.inputs[1:]])


@rule(op("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip")(
    _SQUEEZED, any_value("low", optional=True), any_value("high", optional=True), name="f"))  # fmt: skip
def activate_before_squeeze(build: Builder, y: Value, squeeze: Node, f: Node) -> Value:
    """f(squeeze(W x)) = squeeze(f(W x)), for an activation f that runtimes fuse with the convolution"""
    _axes_behind_conv(y, squeeze)
    return build.copy(squeeze, [build.copy(f, [y, *f.inputs[1:]]), *squeeze.inputs[1:]])


fold_affine = rule_pass(
    "fold-affine", add_into_conv, multiply_into_conv, add_into_gemm, multiply_into_gemm, multiply_into_matmul,
    join_product_and_sum, apply_before_squeeze, activate_before_squeeze, doc=__doc__,
)  # fmt: skip
