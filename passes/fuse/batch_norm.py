"""BatchNormalization takes in the scales and shifts around it, and is recognised from them where it stands alone."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...rewrite import Builder, any_value, constant, op, rule
from ..fold.batchnorm import affine
from ..fold.channels import constant_second, elementwise, factor_of, shift_of, spread

_NORM = op.BatchNormalization(
    any_value("x"), constant("gamma"), constant("beta"), constant("mean"), constant("var"), name="norm"
)  # fmt: skip


def _channels(type: TensorType) -> int:
    shape = type.shape or ()
    if len(shape) < 2 or not isinstance(shape[1], int) or type.dtype not in (DType.FLOAT, DType.DOUBLE):
        raise Declined("the channels are not known")
    return shape[1]


def _norm(build: Builder, x: Value, scale: Array, shift: Array, dtype: np.dtype[np.generic]) -> Value:
    """scale x + shift as BatchNormalization: its mean is 0, its variance 1."""
    ones = np.ones_like(scale)
    operands = [v.astype(dtype) for v in (scale, shift, 0 * ones, ones)]
    if not all(np.isfinite(v).all() for v in operands):
        raise Declined("a scale leaves the range of its type")
    return build.BatchNormalization(x, *operands, epsilon=0.0)


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
    return _norm(build, x, scale, shift, gamma.dtype)


@rule(op.BatchNormalization(_NORM, constant("g"), constant("b"), constant("m"), constant("v"), name="next"),
      min_opset=7)  # fmt: skip
def join_batch_norms(
    build: Builder, x: Value, gamma: Array, beta: Array, mean: Array, var: Array, norm: Node, g: Array, b: Array,
    m: Array, v: Array, next: Node,
) -> Value:  # fmt: skip
    """c (s x + t) + d = (c s) x + (c t + d)"""
    (scale, shift), (c, d) = affine(norm, gamma, beta, mean, var), affine(next, g, b, m, v)
    return _norm(build, x, c * scale, c * shift + d, gamma.dtype)


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
    if (product.op == "Div" and product.inputs[0] is not x) or (
        result.op == "Sub" and result.inputs[0] is not product.output
    ):
        raise Declined("the constant comes first")
    s, t = spread(scale, rank, 1, channels), spread(shift, rank, 1, channels)
    if product.op == "Div":
        if not s.all():
            raise Declined("division by zero")
        s = 1 / s
    return _norm(build, x, s, -t if result.op == "Sub" else t, type.dtype.numpy)
