"""Constant linear maps in a row become one, where that takes fewer multiplications."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, constant, op, rule, weight
from .channels import WIDE_FLOATS, channel_bias
from .weights import rounded

_DEAREST = 1 << 30
"""Multiplications that composing two weights may take: a bound on time, a tenth of a second at 10 GFLOP/s."""


def _matrix(w: Value, transposed: bool = False) -> Array:
    """A constant matrix without other users, transposed if so stored; Declined otherwise."""
    if w.constant is None or len(w.constant.shape) != 2 or w.constant.dtype not in WIDE_FLOATS or not w.has_one_use:
        raise Declined("not a matrix of its own in single or double precision")
    array = w.constant.array()
    return array.T if transposed else array


def _composed(first: Array, second: Array) -> Array:
    """A B in double precision; Declined where a row takes more multiplications with A B than with A, then B."""
    (inputs, middle), outputs = first.shape, second.shape[1]
    if second.shape[0] != middle:
        raise Declined("the matrices do not follow each other")
    if inputs * outputs > inputs * middle + middle * outputs:
        raise Declined("one product would take more multiplications")
    if inputs * middle * outputs > _DEAREST:
        raise Declined("composing them takes too long")
    product: Array = first.astype(np.float64) @ second.astype(np.float64)
    return product


_FIRST = op.MatMul(any_value("x"), weight("a"), name="first")


@rule(op.MatMul(_FIRST, weight("b")))
def compose_products(build: Builder, x: Value, a: Value, b: Value) -> Value:
    """(x A) B = x (A B), if A B takes no more multiplications: K N <= K R + R N for A of K x R and B of R x N"""
    return build.MatMul(x, build.constant(rounded(_composed(_matrix(a), _matrix(b)), a), b.name))


@rule(op.MatMul(op.Add(_FIRST, constant("shift")), weight("b")), min_opset=7)
def compose_shifted_products(build: Builder, x: Value, a: Value, b: Value, shift: Array) -> Value:
    """(x A + c) B = x (A B) + c B, if A B takes no more multiplications"""
    second = _matrix(b)
    product = _composed(_matrix(a), second)
    if shift.ndim > 1 or shift.size not in (1, second.shape[0]):
        raise Declined("the shift differs from row to row")
    moved = channel_bias(shift, second.shape[0]) @ second.astype(np.float64)
    result = build.MatMul(x, build.constant(rounded(product, a), b.name))
    return build.Add(result, build.constant(rounded(moved, a)))


@rule(
    op.Gemm(
        op.Gemm(any_value("x"), weight("a"), constant("c", optional=True), alpha=1.0, beta=1.0, transA=0, name="first"),
        weight("b"), constant("d", optional=True), alpha=1.0, beta=1.0, transA=0, name="second",
    ),
    min_opset=11,
)  # fmt: skip
def compose_gemms(
    build: Builder, x: Value, a: Value, b: Value, c: Array | None, d: Array | None, first: Node, second: Node
) -> Value:
    """(x A + c) B + d = x (A B) + (c B + d), if A B takes no more multiplications"""
    left, right = _matrix(a, bool(attr(first, "transB", 0))), _matrix(b, bool(attr(second, "transB", 0)))
    product, columns = _composed(left, right), right.shape[1]
    shift = np.zeros(columns)
    for array, size in ((c, left.shape[1]), (d, columns)):
        if array is not None and ((array.ndim > 1 and array.shape[0] != 1) or array.size not in (1, size)):
            raise Declined("a shift differs from row to row")
    if c is not None:
        shift = shift + channel_bias(c, left.shape[1]) @ right.astype(np.float64)
    if d is not None:
        shift = shift + channel_bias(d, columns)
    bias = None if c is None and d is None else build.constant(rounded(shift, a))
    return build.Gemm(x, build.constant(rounded(product, a), b.name), bias)


compose_linear_maps = rule_pass(
    "compose-linear-maps",
    *(replace(item, rounding=True) for item in (compose_products, compose_shifted_products, compose_gemms)),
    doc=__doc__,
)
