"""Constant weights scaled in double precision, or in their own where that adds no rounding; within the size limit."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...errors import Declined, ModelError
from ...ir import Array, Constant, Node, Value
from ...ops import attr
from ...rewrite import Builder
from .channels import WIDE_FLOATS
from .constants import room_for_constants

_LARGE = 1 << 16
"""Elements from which a scaled weight is computed lazily, to save memory: see `python -m tests.bench.memory`."""


def read_weight(build: Builder, w: Value) -> Array:
    """A weight in double precision; Declined for other types than float32 and float64, and above the size limit."""
    return _scalable(build, w).array().astype(np.float64)


def scaled_weight(build: Builder, w: Value, factor: Array) -> Constant:
    """factor · w in the precision of w: two roundings an element, as many as BatchNormalization itself makes.

    `factor` broadcasts to the shape of w. A large product is computed when it is read, so that it is never held beside
    the file that it is written to. Declined as in `read_weight`, and where a number leaves the range of its type; a
    product computed later raises ModelError instead, and the check that each result can be written rolls the rule back.
    """
    known = _scalable(build, w)
    try:
        fits = np.broadcast_shapes(known.shape, factor.shape) == known.shape
    except ValueError:
        fits = False
    if not fits:
        raise Declined("the factor does not fit the weight")
    product = partial(_product, known, factor)
    if known.size > _LARGE:
        return Constant(known.dtype, known.shape, product)
    try:
        return Constant.of(product())
    except ModelError:
        raise Declined("a scaled weight leaves the range of its type") from None


def _product(w: Constant, factor: Array) -> Array:
    array = w.array()
    try:
        with np.errstate(over="raise", invalid="raise"):
            return np.asarray(np.multiply(array, factor.astype(array.dtype)))
    except FloatingPointError:
        raise ModelError("a scaled weight leaves the range of its type") from None


def _scalable(build: Builder, w: Value) -> Constant:
    """The weight, if a scaled copy fits the file's size limit; Declined otherwise."""
    known = w.constant
    if known is None or known.dtype not in WIDE_FLOATS:
        raise Declined("the weight is not single or double precision")
    node = w.users[0]
    if not w.has_one_use and node.graph is not None and known.nbytes > room_for_constants(node.graph, build.context):
        raise Declined("the weight is shared, and a copy would exceed the size limit")
    return known


def rounded(array: Array, like: Value) -> Array:
    """`array` in the precision of the constant `like`; Declined where a number is not finite in that type."""
    assert like.constant is not None
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype(like.constant.dtype.numpy)
    if not np.isfinite(narrow).all():
        raise Declined("a scaled weight leaves the range of its type")
    return narrow


def scale_conv_outputs(build: Builder, conv: Node, w: Value, scale: Array) -> Constant:
    """The weight of a Conv or ConvTranspose with its output channels scaled by `scale`, float64[M]."""
    assert w.constant is not None
    shape = w.constant.shape
    ones = (1,) * (len(shape) - 2)
    if conv.op == "Conv":
        if shape[0] != scale.size:
            raise Declined("the statistics do not fit the weight")
        return scaled_weight(build, w, scale.reshape(-1, 1, *ones))
    groups = int(attr(conv, "group", 1))
    if groups * shape[1] != scale.size or shape[0] % groups:
        raise Declined("the statistics do not fit the weight")
    each = np.repeat(scale.reshape(groups, shape[1]), shape[0] // groups, axis=0)  # input channels of a group
    return scaled_weight(build, w, each.reshape(shape[0], shape[1], *ones))


def is_padded(conv: Node) -> bool:
    """The convolution may read zeros beyond the border."""
    return attr(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(attr(conv, "pads", ()))


def scale_conv_inputs(conv: Node, kernel: Array, scale: Array) -> Array:
    """The weight of a Conv, [M,C/groups,…], with its input channels scaled by `scale`, float64[C]."""
    groups = int(attr(conv, "group", 1))
    if kernel.shape[1] * groups != scale.size or kernel.shape[0] % groups:
        raise Declined("the constant does not fit the weight")
    ones = (1,) * (kernel.ndim - 2)
    per_group = kernel.reshape(groups, -1, *kernel.shape[1:])
    return np.asarray(per_group * scale.reshape(groups, 1, kernel.shape[1], *ones)).reshape(kernel.shape)
