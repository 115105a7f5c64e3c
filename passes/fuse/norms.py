"""Normalizations from their arithmetic: LayerNorm, RMSNorm, InstanceNorm, BatchNorm, L2-norm.

LayerNorm and its like are first recognised without scale and shift, which move in by rules of their own, so that one
rule serves every spelling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...ops import attr
from ...rewrite import Builder, Leaf, OpPattern, any_value, constant, op, rule, spellings
from ..fold.batchnorm import batch_norm
from ..fold.channels import constant_second, elementwise, factor_of, floating, shift_of, spread
from .guards import finite, number, reduced_axes, same_axes

_AXES = constant("axes", optional=True)


def _mean(x: Leaf | OpPattern, name: str) -> OpPattern:
    return op.ReduceMean(x, constant(f"{name}_axes", optional=True), name=name, shared=True)


def _squares(x: Leaf | OpPattern) -> Iterator[OpPattern]:
    yield op.Pow(x, constant(equals=2.0))
    yield op.Mul(x, x)


def _over(numerator: Leaf | OpPattern, variance: OpPattern) -> Iterator[OpPattern]:
    root = op.Sqrt(op.Add(variance, constant("eps")))
    power = op.Pow(op.Add(variance, constant("eps")), constant(equals=-0.5))
    half = op.Pow(op.Add(variance, constant("eps")), constant(equals=0.5))
    yield op.Div(numerator, root, name="result")
    yield op.Div(numerator, half, name="result")
    yield op.Mul(numerator, op.Reciprocal(root), name="result")
    yield op.Mul(numerator, op.Div(constant(equals=1.0), root), name="result")
    yield op.Mul(numerator, power, name="result")


def _standardised() -> Iterator[OpPattern]:
    centred = op.Sub(any_value("x"), _mean(any_value("x"), "mean"), name="centred")
    for square in _squares(centred):
        yield from _over(centred, _mean(square, "variance"))


def _root_mean_square() -> Iterator[OpPattern]:
    x = any_value("x")
    for square in _squares(x):
        yield from _over(x, _mean(square, "variance"))


def _trailing(axes: tuple[int, ...], type: TensorType) -> tuple[int, ...]:
    """The sizes of the normalised axes; Declined unless these are the last ones, of known sizes."""
    rank = len(type.shape or ())
    if not axes or axes != tuple(range(rank - len(axes), rank)):
        raise Declined("the axes are not the last ones")
    sizes = (type.shape or ())[axes[0] :]
    if not all(isinstance(size, int) for size in sizes):
        raise Declined("the size that is normalised is not known")
    return tuple(size for size in sizes if isinstance(size, int))


@spellings(*_standardised(), min_opset=7)
def fuse_layer_norm(build: Builder, x: Value, mean: Node, variance: Node, eps: Array, result: Node) -> Value:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) = layer_norm(x), over the last axes (Ba et al. 2016)

    Over all axes but the first two it is instance_norm(x) (Ulyanov et al. 2016).
    """
    type = elementwise(x, result)
    finite(x)  # for a row with an infinite element LayerNormalization gives zeros, the chain NaN
    shape = type.shape or ()
    axes = same_axes(len(shape), mean, variance)
    epsilon = number(eps, 0.0)
    channels = shape[1] if axes == tuple(range(2, len(shape))) else None
    known = all(isinstance(size, int) for size in shape[axes[0] :])
    if isinstance(channels, int) and (len(axes) > 1 or not known):
        ones = np.ones(channels, type.dtype.numpy)
        return build.InstanceNormalization(x, ones, np.zeros_like(ones), epsilon=epsilon)
    scale = np.ones(_trailing(axes, type), type.dtype.numpy)
    return build.LayerNormalization(x, scale, axis=axes[0], epsilon=epsilon)


@spellings(*_root_mean_square(), min_opset=23)
def fuse_rms_norm(build: Builder, x: Value, variance: Node, eps: Array, result: Node) -> Value:
    """x / sqrt(mean(x^2) + eps) = rms_norm(x), over the last axes (Zhang and Sennrich 2019)"""
    type = elementwise(x, result)
    axes = same_axes(len(type.shape or ()), variance)
    sizes = _trailing(axes, type)
    return build.RMSNormalization(
        x, np.ones(sizes, type.dtype.numpy), axis=axes[0], epsilon=number(eps, 0.0)
    )  # fmt: skip


def _normalised(*operands: Leaf) -> OpPattern:
    return op("LayerNormalization", "RMSNormalization")(any_value("x"), constant("scale"), *operands, name="norm")


def _fits(value: Value, sizes: tuple[int, ...], x: Value) -> bool:
    """`value` has these sizes, after leading axes of size 1 that do not widen x."""
    type = value.type
    if not isinstance(type, TensorType) or type.shape is None or len(type.shape) > len(floating(x).shape or ()):
        return False
    lead = len(type.shape) - len(sizes)
    return lead >= 0 and type.shape[lead:] == sizes and all(size == 1 for size in type.shape[:lead])


def _flat(build: Builder, value: Value, sizes: tuple[int, ...]) -> Value:
    if value.constant is not None:
        return build.constant(value.constant.array().reshape(sizes), value.name)
    if not isinstance(value.type, TensorType) or value.type.shape != sizes:
        raise Declined("the scale or shift has an axis more")
    return value


@rule(op.Mul(_normalised(), any_value("gamma")), min_opset=17)
def scale_into_norm(build: Builder, x: Value, scale: Array, gamma: Value, norm: Node) -> Value:
    """norm(x, 1) gamma = norm(x, gamma)"""
    if not _fits(gamma, scale.shape, x):
        raise Declined("the scale is not one number a normalised position")
    if gamma.constant is not None:
        product = gamma.constant.array().reshape(scale.shape) * scale
        return build.copy(norm, [x, build.constant(product.astype(scale.dtype), gamma.name)])
    if not (scale == 1).all():
        raise Declined("the scale is not 1")
    return build.copy(norm, [x, _flat(build, gamma, scale.shape)])


@rule(op.Add(op.LayerNormalization(any_value("x"), any_value("scale"), name="norm"), any_value("beta")), min_opset=17)
def shift_into_norm(build: Builder, x: Value, scale: Value, beta: Value, norm: Node) -> Value:
    """layer_norm(x, gamma) + beta = layer_norm(x, gamma, beta)"""
    sizes = scale.type.shape if isinstance(scale.type, TensorType) else None
    if sizes is None or not all(isinstance(size, int) for size in sizes):
        raise Declined("the size that is normalised is not known")
    known = tuple(size for size in sizes if isinstance(size, int))
    if not _fits(beta, known, x):
        raise Declined("the shift is not one number a normalised position")
    return build.copy(norm, [x, scale, _flat(build, beta, known)])


@rule(
    op("Mul", "Add")(
        op.InstanceNormalization(any_value("x"), constant("scale"), constant("shift"), name="norm"),
        constant("c"),
        name="result",
    ),
    min_opset=7,
)
def affine_into_instance_norm(
    build: Builder, x: Value, scale: Array, shift: Array, c: Array, norm: Node, result: Node
) -> Value:
    """instance_norm(x, s, t) c = instance_norm(x, s c, t c); … + c = instance_norm(x, s, t + c), for one c a channel"""
    rank = len(elementwise(x, result).shape or ())
    sizes = [1] * (rank - c.ndim) + list(c.shape)
    if any(size != 1 for i, size in enumerate(sizes) if i != 1) or sizes[1] not in (1, scale.size):
        raise Declined("the constant is not one number a channel")
    c = c.reshape(-1)
    operands = [scale * c, shift * c] if result.op == "Mul" else [scale, shift + c]
    return build.copy(norm, [x, *(v.astype(scale.dtype) for v in operands)])


def _channels(type: TensorType) -> int:
    shape = type.shape or ()
    if len(shape) < 2 or not isinstance(shape[1], int) or type.dtype not in (DType.FLOAT, DType.DOUBLE):
        raise Declined("the channels are not known")
    return shape[1]


@rule(
    op("Add", "Sub")(op("Mul", "Div")(any_value("x"), constant("scale"), name="product"), constant("shift"),
                     name="result"),
    min_opset=7,
)  # fmt: skip
def fuse_batch_norm(build: Builder, x: Value, scale: Array, shift: Array, product: Node, result: Node) -> Value:
    """s x + t = batch_norm(x), for an s and a t that differ from channel to channel"""
    type = elementwise(x, result)
    channels, rank = _channels(type), len(type.shape or ())
    if rank < 3 or (scale.size == 1 and shift.size == 1):
        raise Declined("not one number a channel")
    constant_second(product, x)
    constant_second(result, product.output)
    s = spread(factor_of(product, scale), rank, 1, channels)
    t = spread(shift_of(result, shift), rank, 1, channels)
    return batch_norm(build, x, s, t, type.dtype.numpy)


_L2 = op.ReduceL2(any_value("x"), _AXES, name="length")


@spellings(
    op.Div(any_value("x"), op.Clip(_L2, constant("eps")), name="result"),
    op.Div(any_value("x"), op.Max(_L2, constant("eps")), name="result"),
    op.Div(any_value("x"), op.Expand(op.Clip(_L2, constant("eps")), op.Shape(any_value("x"))), name="result"),
    min_opset=11,
)
def fuse_l2_norm(build: Builder, x: Value, eps: Array, length: Node, result: Node) -> Value:
    """x / max(||x||, eps) = lp_normalization(x), for eps <= 1e-10; shorter vectors count as zero in both"""
    rank = len(elementwise(x, result).shape or ())
    axes = reduced_axes(length, rank)
    if axes != (rank - 1,) or not attr(length, "keepdims", 1):
        raise Declined("not over the last axis alone")  # over others, onnxruntime's kernel is slower than the chain
    if not 0 < number(eps, 0.0) <= 1e-10:
        raise Declined("the bound is no guard against division by zero")
    return build.LpNormalization(x, axis=axes[0], p=2)
