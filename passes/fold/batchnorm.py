"""BatchNormalization at inference is y = s x + t, with s = gamma / sqrt(var + eps) and t = beta - mean s a channel.

It moves into the linear operator before it, or into the one after it if that does not pad. Statistics and biases are
combined in double precision; a weight with other users is copied only if the size limit allows.
"""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...ops import attr, version_for
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, Leaf, OpPattern, any_value, constant, op, rule, weight
from .channels import channel_bias, constant_second, elementwise, factor_of, shift_of, spread
from .weights import is_padded, read_weight, rounded, scale_conv_inputs, scale_conv_outputs, scaled_weight


def _norm(x: Leaf | OpPattern) -> OpPattern:
    return op.BatchNormalization(
        x, constant("gamma"), constant("beta"), constant("mean"), constant("var"), name="norm"
    )  # fmt: skip


_NORM = _norm(any_value("x"))


def affine(norm: Node, gamma: Array, beta: Array, mean: Array, var: Array) -> tuple[Array, Array]:
    """s and t of BatchNormalization, float64[C]; Declined in training mode and for statistics for each position."""
    if len(norm.outputs) > 1 or attr(norm, "training_mode", 0):
        raise Declined("BatchNormalization is in training mode")
    if version_for(norm) < 7 and not attr(norm, "is_test", 0):
        raise Declined("BatchNormalization is in training mode")
    if not attr(norm, "spatial", 1):
        raise Declined("BatchNormalization has statistics for each position")
    variance = var.astype(np.float64) + float(attr(norm, "epsilon", 1e-5))
    if not (variance > 0).all():
        raise Declined("a variance is negative")
    scale = gamma.astype(np.float64) / np.sqrt(variance)
    shift = beta.astype(np.float64) - mean.astype(np.float64) * scale
    if scale.ndim != 1 or not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Declined("the statistics are not finite numbers")
    return scale, shift


def batch_norm(build: Builder, x: Value, scale: Array, shift: Array, dtype: np.dtype[np.generic]) -> Value:
    """scale x + shift as BatchNormalization with mean 0 and variance 1."""
    ones = np.ones_like(scale)
    operands = [v.astype(dtype) for v in (scale, shift, 0 * ones, ones)]
    if not all(np.isfinite(v).all() for v in operands):
        raise Declined("a scale leaves the range of its type")
    return build.BatchNormalization(x, *operands, epsilon=0.0)


@rule(_norm(op("Conv", "ConvTranspose")(any_value("x"), weight("w"), constant("b", optional=True), name="conv")))
def fold_norm_into_conv(
    build: Builder, x: Value, w: Value, b: Array | None, conv: Node, norm: Node, gamma: Array, beta: Array,
    mean: Array, var: Array,
) -> Value:  # fmt: skip
    """gamma (Wx + b - mean) / std + beta = (W s) x + (b s + t)"""
    scale, shift = affine(norm, gamma, beta, mean, var)
    scaled = scale_conv_outputs(build, conv, w, scale)
    bias = rounded(channel_bias(b, scale.size) * scale + shift, w)
    return build.copy(conv, [x, build.constant(scaled, w.name), bias])


@rule(_norm(op.Gemm(any_value("x"), weight("w"), constant("c", optional=True), name="gemm")), min_opset=7)
def fold_norm_into_gemm(
    build: Builder, x: Value, w: Value, c: Array | None, gemm: Node, norm: Node, gamma: Array, beta: Array,
    mean: Array, var: Array,
) -> Value:  # fmt: skip
    """s (alpha A B + beta c) + t = alpha A (B s) + (beta c s + t)"""
    scale, shift = affine(norm, gamma, beta, mean, var)
    scaled = scaled_weight(build, w, scale[:, None] if attr(gemm, "transB", 0) else scale)
    bias = float(attr(gemm, "beta", 1.0)) * channel_bias(c, scale.size) * scale + shift
    return build.copy(gemm, [x, build.constant(scaled, w.name), rounded(bias, w)], beta=1.0)


@rule(_norm(op.MatMul(any_value("x"), weight("w"))), min_opset=7)
def fold_norm_into_matmul(
    build: Builder, x: Value, w: Value, norm: Node, gamma: Array, beta: Array, mean: Array, var: Array
) -> Value:
    """s (A B) + t = A (B s) + t, for a matrix A"""
    scale, shift = affine(norm, gamma, beta, mean, var)
    if not isinstance(x.type, TensorType) or x.type.rank != 2 or w.constant is None or len(w.constant.shape) != 2:
        raise Declined("the product is not one of matrices")
    return build.Gemm(x, build.constant(scaled_weight(build, w, scale), w.name), rounded(shift, w))


@rule(op.Conv(_NORM, weight("w"), constant("b", optional=True), name="conv"))
def fold_norm_into_next_conv(
    build: Builder, x: Value, w: Value, b: Array | None, conv: Node, norm: Node, gamma: Array, beta: Array,
    mean: Array, var: Array,
) -> Value:  # fmt: skip
    """W (s x + t) + b = (W s) x + (W t + b), for t = 0 or no padding: zeros beyond the border are not t"""
    scale, shift = affine(norm, gamma, beta, mean, var)
    if shift.any() and is_padded(conv):
        raise Declined("Conv pads with zeros, which the shift would have to move")
    kernel = read_weight(build, w)
    scaled = rounded(scale_conv_inputs(conv, kernel, scale), w)
    moved = scale_conv_inputs(conv, kernel, shift).sum(axis=tuple(range(1, kernel.ndim)))
    bias = rounded(channel_bias(b, kernel.shape[0]) + moved, w)
    return build.copy(conv, [x, build.constant(scaled, w.name), bias])


@rule(op.Gemm(_NORM, weight("w"), constant("c", optional=True), transA=0, name="gemm"), min_opset=7)
def fold_norm_into_next_gemm(
    build: Builder, x: Value, w: Value, c: Array | None, gemm: Node, norm: Node, gamma: Array, beta: Array,
    mean: Array, var: Array,
) -> Value:  # fmt: skip
    """alpha (s x + t) B + beta c = alpha x (s B) + (alpha t B + beta c)"""
    scale, shift = affine(norm, gamma, beta, mean, var)
    matrix, transposed = read_weight(build, w), bool(attr(gemm, "transB", 0))
    scaled = matrix * (scale if transposed else scale[:, None])
    moved = float(attr(gemm, "alpha", 1.0)) * (matrix @ shift if transposed else shift @ matrix)
    bias = moved + float(attr(gemm, "beta", 1.0)) * channel_bias(c, moved.size)
    return build.copy(gemm, [x, build.constant(rounded(scaled, w), w.name), rounded(bias, w)], beta=1.0)


@rule(op("Mul", "Div", "Add", "Sub")(_NORM, constant("c"), name="result"), min_opset=7)
def affine_into_batch_norm(
    build: Builder, x: Value, gamma: Array, beta: Array, mean: Array, var: Array, c: Array, norm: Node, result: Node
) -> Value:
    """c (s x + t) = (c s) x + c t and (s x + t) + c = s x + (t + c), for one c a channel"""
    type = elementwise(x, result)
    scale, shift = affine(norm, gamma, beta, mean, var)
    constant_second(result, norm.output)
    rank = len(type.shape or ())
    if result.op in ("Mul", "Div"):
        factor = spread(factor_of(result, c), rank, 1, scale.size)
        scale, shift = scale * factor, shift * factor
    else:
        shift = shift + spread(shift_of(result, c), rank, 1, scale.size)
    return batch_norm(build, x, scale, shift, gamma.dtype)


@rule(op.BatchNormalization(_NORM, constant("g"), constant("b"), constant("m"), constant("v"), name="next"),
      min_opset=7)  # fmt: skip
def join_batch_norms(
    build: Builder, x: Value, gamma: Array, beta: Array, mean: Array, var: Array, norm: Node, g: Array, b: Array,
    m: Array, v: Array, next: Node,
) -> Value:  # fmt: skip
    """c (s x + t) + d = (c s) x + (c t + d)"""
    (scale, shift), (c, d) = affine(norm, gamma, beta, mean, var), affine(next, g, b, m, v)
    return batch_norm(build, x, c * scale, c * shift + d, gamma.dtype)


fold_batchnorm = rule_pass(
    "fold-batchnorm", fold_norm_into_conv, fold_norm_into_gemm, fold_norm_into_matmul, fold_norm_into_next_conv,
    fold_norm_into_next_gemm, doc=__doc__,
)  # fmt: skip
