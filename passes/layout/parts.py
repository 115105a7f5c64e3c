"""Parts of the last axis that exporters take through an axis of their own: queries, keys and values of one product."""

from __future__ import annotations

from math import prod

import numpy as np

from ...analysis.operands import axis_of, integers, shape_of
from ...errors import Declined
from ...ir import Array, DType, Node, Value
from ...ops import attr, same_by_count, same_sizes
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, constant, op, rule, weight
from .reshapes import sizes_for


def _one_axis(node: Node, rank: int) -> int:
    """The only axis that Squeeze or Unsqueeze names; Declined for others."""
    axes = integers(node, 1, "axes")
    axis = axis_of(axes[0], rank) if axes is not None and len(axes) == 1 else None
    if axis is None:
        raise Declined("not one known axis")
    return axis


@rule(
    op.Squeeze(
        op.Transpose(op.Unsqueeze(any_value("x"), any_value("a", optional=True), name="first"), name="turn"),
        any_value("b", optional=True), name="last",
    )
)  # fmt: skip
def permute_in_place(build: Builder, x: Value, first: Node, turn: Node, last: Node) -> Value:
    """squeeze(permute_p(unsqueeze(x, a)), b) = permute_q(x), where p moves the axis a to b"""
    shape, perm = shape_of(x), turn.attrs.get("perm")
    if shape is None or perm is None:
        raise Declined("the rank is not known")
    rank = len(shape) + 1
    axis = _one_axis(first, rank)
    if perm[_one_axis(last, rank)] != axis:
        raise Declined("another axis is taken out")
    return build.Transpose(x, perm=[p - (p > axis) for p in perm if p != axis])


@rule(op.Gather(op.Transpose(any_value("x"), name="turn", shared=True), constant("i"), name="gather"))
def pick_before_transpose(build: Builder, x: Value, i: Array, turn: Node, gather: Node) -> Value:
    """permute_p(x)[i] on axis a = x[i] on axis p[a], where p keeps the other axes in order"""
    perm = turn.attrs.get("perm")
    axis = None if perm is None else axis_of(int(attr(gather, "axis", 0)), len(perm))
    if perm is None or axis is None or i.ndim:
        raise Declined("not one index on a known axis")
    rest = [p for p in perm if p != perm[axis]]
    if rest != sorted(rest):
        raise Declined("the other axes are permuted")
    return build.Gather(x, i, axis=perm[axis])


@rule(
    op.Gather(op.Reshape(any_value("x"), any_value("sizes"), name="split", shared=True), constant("i"), name="gather"),
    min_opset=10,
)
def pick_part(build: Builder, x: Value, i: Array, split: Node, gather: Node) -> Value:
    """reshape(x, […, k, E])[…, i, :] = x[…, i E : (i + 1) E]"""
    source, middle = shape_of(x), shape_of(split.output)
    if source is None or middle is None or i.ndim or len(middle) != len(source) + 1 or not source:
        raise Declined("not one index in one more axis")
    last, (parts, size) = len(source) - 1, middle[-2:]
    if axis_of(int(attr(gather, "axis", 0)), len(middle)) != last or not same_sizes(source[:-1], middle[:-2]):
        raise Declined("the axis is not the outer half of the last one")
    if not isinstance(parts, int) or not isinstance(size, int) or source[-1] != parts * size:
        raise Declined("the sizes are not known")
    place = int(i) % parts
    bounds = (np.array([n], np.int64) for n in (place * size, (place + 1) * size, last))
    return build.Slice(x, *bounds)


@rule(
    op.Reshape(
        op.Gemm(
            op.Reshape(any_value("x"), any_value("flat"), name="first"), weight("w"), constant("b", optional=True),
            transA=0, alpha=1.0, beta=1.0, name="gemm",
        ),
        any_value("sizes"), name="last",
    ),
    min_opset=7,
)  # fmt: skip
def product_of_rows(build: Builder, x: Value, w: Value, b: Array | None, first: Node, gemm: Node, last: Node) -> Value:
    """reshape(gemm(reshape(x, [-1, K]), W, b), […, N]) = reshape(x, […, K]) W + b, for the same leading axes"""
    source, flat, target = shape_of(x), shape_of(first.output), shape_of(last.output)
    if source is None or flat is None or target is None or w.constant is None or len(target) < 3:
        raise Declined("a rank is not known")
    lead, inner = target[:-1], source[len(target) - 1 :]
    if not inner or not same_by_count(source[: len(lead)], lead) or not all(isinstance(d, int) for d in inner):
        raise Declined("the leading axes differ")
    columns, rows = w.constant.shape[:: -1 if not attr(gemm, "transB", 0) else 1]
    if prod(d for d in inner if isinstance(d, int)) != rows or target[-1] != columns:
        raise Declined("the leading axes differ")
    if not w.has_one_use:
        raise Declined("the weight would be stored twice")
    if b is not None and b.shape not in ((columns,), (1, columns), (1,), ()):
        raise Declined("the bias differs from row to row")
    if b is not None and w.constant.dtype not in (DType.FLOAT, DType.DOUBLE):
        raise Declined("in half precision the product would be rounded before the bias is added")
    matrix = build.constant(np.ascontiguousarray(w.constant.array().T), w.name) if attr(gemm, "transB", 0) else w
    wide = (
        x if len(inner) == 1 else build.Reshape(x, np.array(sizes_for((*source[: len(lead)], rows), source), np.int64))
    )
    product = build.MatMul(wide, matrix)
    return product if b is None else build.Add(product, b.reshape(b.shape[-1:]))


take_parts = rule_pass("take-parts", permute_in_place, pick_before_transpose, pick_part, product_of_rows, doc=__doc__)
