"""Constants that are multiplied with or added to the input of a Conv move into its weight and bias."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, Leaf, OpPattern, any_value, constant, op, rule, weight
from .channels import WIDE_FLOATS, channel_bias, constant_second, factor_of, shift_of, spread
from .weights import is_padded, read_weight, rounded, scale_conv_inputs

_EXTREME = 1e4
"""Beyond this ratio x + c / a loses too many digits of x: float32 has seven, of which three must remain."""


def _mul(x: Leaf | OpPattern, c: str, name: str) -> OpPattern:
    return op("Mul", "Div")(x, constant(c), name=name)


def _add(x: Leaf | OpPattern, c: str, name: str) -> OpPattern:
    return op("Add", "Sub")(x, constant(c), name=name)


def _conv(x: Leaf | OpPattern) -> OpPattern:
    return op.Conv(x, weight("w"), constant("b", optional=True), name="conv")


def _channels(w: Value, conv: Node) -> int:
    """The input channels of a Conv."""
    known = w.constant
    if known is None or known.dtype not in WIDE_FLOATS or len(known.shape) < 3:
        raise Declined("the weight is not single or double precision")
    return known.shape[1] * int(attr(conv, "group", 1))


def _per_channel(x: Value, c: Array, w: Value, conv: Node) -> Array:
    """A constant as one number for each input channel of the convolution; Declined where broadcasting widens x."""
    rank = x.type.rank if isinstance(x.type, TensorType) else None
    if rank is None:
        raise Declined("the rank is not known")
    return spread(c, rank, 1, _channels(w, conv))


def _same_channels(x: Value, channels: int) -> None:
    """Declined unless x has the channels: one channel that broadcasts with a constant would become many."""
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    if shape is None or len(shape) < 2 or shape[1] != channels:
        raise Declined("the number of channels is not known")


@rule(_conv(_mul(any_value("x"), "c", "product")), min_opset=7)
def multiply_before_conv(
    build: Builder, x: Value, c: Array, w: Value, b: Array | None, product: Node, conv: Node
) -> Value:
    """W (c x) + b = (W c) x + b, for one c a channel"""
    constant_second(product, x)
    _same_channels(x, _channels(w, conv))
    scale = _per_channel(x, factor_of(product, c), w, conv)
    scaled = rounded(scale_conv_inputs(conv, read_weight(build, w), scale), w)
    return build.copy(conv, [x, build.constant(scaled, w.name), b])


@rule(_conv(_add(any_value("x"), "c", "sum")), min_opset=7)
def add_before_conv(build: Builder, x: Value, c: Array, w: Value, b: Array | None, sum: Node, conv: Node) -> Value:
    """W (x + c) + b = W x + (W c + b), for one c a channel and no padding"""
    constant_second(sum, x)
    _same_channels(x, _channels(w, conv))
    if is_padded(conv):
        raise Declined("Conv pads with zeros, which the shift would have to move")
    shift = _per_channel(x, shift_of(sum, c), w, conv)
    assert w.constant is not None
    kernel = w.constant.array().astype(np.float64)
    moved = scale_conv_inputs(conv, kernel, shift).sum(axis=tuple(range(1, kernel.ndim)))
    return build.copy(conv, [x, w, rounded(channel_bias(b, kernel.shape[0]) + moved, w)])


@rule(_conv(_add(_mul(any_value("x"), "a", "product"), "c", "sum")), min_opset=7)
def multiply_before_padded_conv(
    build: Builder, x: Value, a: Array, c: Array, w: Value, b: Array | None, product: Node, sum: Node, conv: Node
) -> Value:
    """W (a x + c) + b = (W a) (x + c / a) + b, for one a a channel: zeros beyond the border stay zeros"""
    constant_second(product, x)
    constant_second(sum, product.output)
    _same_channels(x, _channels(w, conv))
    scale = _per_channel(x, factor_of(product, a), w, conv)
    shift = _per_channel(x, shift_of(sum, c), w, conv)
    if not is_padded(conv):
        raise Declined("the shift can move as well")
    size = np.abs(scale)
    if size.min() <= 1 / _EXTREME or size.max() >= _EXTREME or (np.abs(shift) > _EXTREME * size).any():
        raise Declined("a factor is extreme")
    scaled = rounded(scale_conv_inputs(conv, read_weight(build, w), scale), w)
    single = a.size == 1 and c.size == 1
    moved = (shift / scale)[0] if single else (shift / scale).reshape(-1, *(1,) * (scaled.ndim - 2))
    shifted = build.Add(x, rounded(np.asarray(moved), w))
    return build.copy(conv, [shifted, build.constant(scaled, w.name), b])


fold_affine_before = rule_pass(
    "fold-affine-before", add_before_conv, multiply_before_padded_conv, multiply_before_conv, doc=__doc__
)
