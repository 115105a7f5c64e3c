"""Einsum as a product, permutation or sum: onnxruntime has faster kernels for those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import Declined
from ...ir import Node, TensorType, Value
from ...ops import einsum_terms
from ...rewrite import Builder, any_value, op, rule
from ..fold.channels import FLOATS


@dataclass(frozen=True, slots=True)
class _Product:
    """A matrix product: whether the operands are swapped, and the letters of their axes and of the result."""

    swapped: bool
    left: str
    right: str
    product: str

    def turns(self, first: str, second: str, wanted: str) -> int:
        """The number of transpositions needed."""
        a, b = (second, first) if self.swapped else (first, second)
        return (a != self.left) + (b != self.right) + (self.product != wanted)


def _terms(node: Node, count: int) -> tuple[tuple[str, ...], str]:
    """The letters of the operands and of the result; Declined for an ellipsis, a repeated letter, other counts."""
    terms, wanted = einsum_terms(str(node.attrs.get("equation", "")))
    if len(terms) != count or any("." in term or len(set(term)) != len(term) for term in (*terms, wanted)):
        raise Declined("an ellipsis, a diagonal, or another number of operands")
    return tuple(terms), wanted


def _types(*values: Value) -> list[TensorType]:
    types = [v.type for v in values if isinstance(v.type, TensorType) and v.type.dtype in FLOATS]
    if len(types) != len(values) or any(type.shape is None for type in types):
        raise Declined("not floating-point tensors of known rank")
    return types


def _permuted(build: Builder, x: Value, now: str, wanted: str) -> Value:
    return x if now == wanted else build.Transpose(x, perm=[now.index(letter) for letter in wanted])


def _products(first: str, second: str, wanted: str) -> list[_Product]:
    """The ways to write an Einsum as one product of matrices; none where several axes are summed, or stay apart."""
    products = []
    for swapped, a, b in ((False, first, second), (True, second, first)):
        inner = [letter for letter in a if letter in b and letter not in wanted]
        batch = [letter for letter in wanted if letter in a and letter in b]
        rows = [letter for letter in wanted if letter in a and letter not in b]
        columns = [letter for letter in wanted if letter in b and letter not in a]
        if len(inner) != 1 or set(a) != {*batch, *rows, *inner} or set(b) != {*batch, *columns, *inner}:
            continue
        if len(columns) > 1 or (batch and (len(rows) != 1 or len(columns) != 1)):
            continue
        left, right = "".join((*batch, *rows, *inner)), "".join((*batch, *inner, *columns))
        products.append(_Product(swapped, left, right, "".join((*batch, *rows, *columns))))
    return products


@rule(op.Einsum(any_value("x"), any_value("z"), name="einsum"), min_opset=12)
def einsum_as_product(build: Builder, x: Value, z: Value, einsum: Node) -> Value:
    """einsum(a, b) = permute(permute(a) permute(b)), where one axis is summed over

    With the same axes on all three it is the product element by element.
    """
    (first, second), wanted = _terms(einsum, 2)
    types = _types(x, z)
    sizes = [dict(zip(term, type.shape or ())) for term, type in zip((first, second), types)]
    if any(len(s) != len(t) for s, t in zip(sizes, (first, second))):
        raise Declined("the equation has other axes")
    if any(sizes[0][letter] is None or sizes[0][letter] != sizes[1][letter] for letter in set(first) & set(second)):
        raise Declined("an axis may be broadcast")
    if first == second == wanted:
        return build.Mul(x, z)
    products = _products(first, second, wanted)
    if not products:
        raise Declined("not one product of matrices")
    chosen = min(products, key=lambda product: product.turns(first, second, wanted))
    (a, now), (b, then) = ((z, second), (x, first)) if chosen.swapped else ((x, first), (z, second))
    product = build.MatMul(_permuted(build, a, now, chosen.left), _permuted(build, b, then, chosen.right))
    return _permuted(build, product, chosen.product, wanted)


@rule(op.Einsum(any_value("x"), name="einsum"), min_opset=13)
def einsum_of_one(build: Builder, x: Value, einsum: Node) -> Value:
    """einsum(a) = permute(sum(a)), summed over the axes that the result lacks"""
    (first,), wanted = _terms(einsum, 1)
    (type,) = _types(x)
    if len(type.shape or ()) != len(first) or not set(wanted) <= set(first):
        raise Declined("the equation has other axes")
    gone = [i for i, letter in enumerate(first) if letter not in wanted]
    total = x if not gone else build.ReduceSum(x, np.array(gone, np.int64), keepdims=0)
    left = "".join(letter for letter in first if letter in wanted)
    if left == wanted and not gone:
        return build.Identity(x)
    return _permuted(build, total, left, wanted)
