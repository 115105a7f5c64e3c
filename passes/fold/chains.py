"""Constants in a chain of sums and products become one; those after BatchNormalization move into it.

New constants are computed in double precision. A chain stays where its terms nearly cancel or a factor is extreme,
since it rounds differently there from one sum or product.
"""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, Constant, Node, TensorType, Value
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, constant, op, rule
from .batchnorm import affine_into_batch_norm
from .channels import WIDE_FLOATS, constant_second, factor_of, shift_of
from .weights import rounded

_EXTREME = 1e6
"""Factors within it, and their products, stay far from the ends of float32, 1e38: no step overflows or is subnormal."""

_CANCELS = 0.125
"""A sum below this share of its larger term has lost three bits or more, which the chain rounds differently."""


def _float_type(x: Value) -> TensorType:
    if not isinstance(x.type, TensorType) or x.type.dtype not in WIDE_FLOATS:
        raise Declined("not in single or double precision")
    return x.type


def _stored(x: Value, array: Array, *parts: Array) -> Value:
    """A constant of the type of `x`; Declined where it would be larger than each of the `parts` that it replaces."""
    if array.size > max(part.size for part in parts):
        raise Declined("the constants do not broadcast to one of them")
    like = Value(constant=Constant.of(np.zeros((), _float_type(x).dtype.numpy)))
    return Value(constant=Constant.of(rounded(array, like)))


def _product(a: Array, b: Array) -> Array:
    for c in (a, b):
        sizes = np.abs(c[c != 0])
        if not np.isfinite(c).all() or (sizes.size and (sizes.max() > _EXTREME or sizes.min() < 1 / _EXTREME)):
            raise Declined("a factor is extreme")
    return np.asarray(a * b)


def _sum(a: Array, b: Array) -> Array:
    total = np.asarray(a + b)
    if not np.isfinite(total).all() or (np.abs(total) < _CANCELS * np.maximum(np.abs(a), np.abs(b))).any():
        raise Declined("the terms nearly cancel")
    return total


@rule(op("Mul", "Div")(op("Mul", "Div")(any_value("x"), constant("a"), name="first"), constant("b"), name="second"),
      min_opset=7)  # fmt: skip
def join_products(build: Builder, x: Value, a: Array, b: Array, first: Node, second: Node) -> Value:
    """(x a) b = x (a b)"""
    _float_type(x)
    constant_second(first, x)
    constant_second(second, first.output)
    return build.Mul(x, _stored(x, _product(factor_of(first, a), factor_of(second, b)), a, b))


@rule(op("Add", "Sub")(op("Add", "Sub")(any_value("x"), constant("a"), name="first"), constant("b"), name="second"),
      min_opset=7)  # fmt: skip
def join_sums(build: Builder, x: Value, a: Array, b: Array, first: Node, second: Node) -> Value:
    """(x + a) + b = x + (a + b)"""
    _float_type(x)
    constant_second(first, x)
    constant_second(second, first.output)
    return build.Add(x, _stored(x, _sum(shift_of(first, a), shift_of(second, b)), a, b))


@rule(op("Add", "Sub")(op("Mul", "Div")(op("Add", "Sub")(any_value("x"), constant("a"), name="first"), constant("b"),
                                        name="middle"), constant("c"), name="last"), min_opset=7)  # fmt: skip
def join_sum_product_sum(
    build: Builder, x: Value, a: Array, b: Array, c: Array, first: Node, middle: Node, last: Node
) -> Value:
    """(x + a) b + c = x b + (a b + c)"""
    _float_type(x)
    for node, before in ((first, x), (middle, first.output), (last, middle.output)):
        constant_second(node, before)
    scale = factor_of(middle, b)
    shift = _sum(_product(np.asarray(shift_of(first, a)), scale), shift_of(last, c))
    return build.Add(build.Mul(x, _stored(x, scale, b)), _stored(x, shift, a, b, c))


@rule(op("Mul", "Div")(op("Add", "Sub")(op("Mul", "Div")(any_value("x"), constant("a"), name="first"), constant("b"),
                                        name="middle"), constant("c"), name="last"), min_opset=7)  # fmt: skip
def join_product_sum_product(
    build: Builder, x: Value, a: Array, b: Array, c: Array, first: Node, middle: Node, last: Node
) -> Value:
    """(x a + b) c = x (a c) + b c"""
    _float_type(x)
    for node, before in ((first, x), (middle, first.output), (last, middle.output)):
        constant_second(node, before)
    scale = factor_of(last, c)
    product = _product(factor_of(first, a), scale)
    shift = _product(np.asarray(shift_of(middle, b)), scale)
    return build.Add(build.Mul(x, _stored(x, product, a, c)), _stored(x, shift, b, c))


fold_chains = rule_pass(
    "fold-chains",
    affine_into_batch_norm,  # also before a quantization, where fusions decline
    join_products,
    join_sums,
    join_sum_product_sum,
    join_product_sum_product,
    doc=__doc__,
)
