"""Masks that are read position by position, as transformers writes them: the first columns of the mask.

m[b, t] for b < B and t < T is m[:B, :T]; the positions are counted by Range, whatever is built of them on the way.
"""

from __future__ import annotations

import numpy as np

from ...analysis.operands import integers, shape_of
from ...errors import Declined
from ...ir import Array, Dim, DType, Node, TensorType, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, constant, op, rule

_COLUMNS = any_value("columns")


def _limit(value: Value, axis: int) -> Value:
    """n, if `value` is 0, 1, …, n - 1 along one of four axes, and has size 1 along the others; Declined otherwise."""
    node, shape = value.producer, shape_of(value)
    if shape is None or len(shape) != 4 or any(size != 1 for i, size in enumerate(shape) if i != axis):
        raise Declined("the positions are not along one axis")
    while node is not None and node.op in ("Unsqueeze", "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer
    start, step = (None, None) if node is None or node.op != "Range" else (node.constant(0), node.constant(2))
    if node is None or start is None or step is None or start.array().any() or (step.array() != 1).any():
        raise Declined("the positions are not counted from 0")
    limit = node.inputs[1]
    if limit is None or shape_of(limit) not in ((), (1,)):
        raise Declined("the positions are not counted from 0")
    return limit


def _window(build: Builder, m: Value, limits: tuple[Value, Value], wanted: tuple[Dim, ...] | None) -> Value:
    """m[:B, :T] with axes put in, [B,1,1,T]; an axis that has the size already is not sliced."""
    whole = shape_of(m)
    if whole is None or wanted is None or len(whole) != 2 or len(wanted) != 4 or wanted[1:3] != (1, 1):
        raise Declined("not a mask of two axes")
    axes = [axis for axis, size in enumerate((wanted[0], wanted[3])) if size is None or size != whole[axis]]
    if axes:
        last = np.array([-1], np.int64)
        ends = [build.Reshape(limits[axis], last) for axis in axes]
        end = ends[0] if len(ends) == 1 else build.Concat(*ends, axis=0)
        dtype = DType.UNDEFINED if not isinstance(m.type, TensorType) else m.type.dtype
        m = build.Slice(m, np.zeros(len(axes), np.int64), end, np.array(axes, np.int64))
        m.type = TensorType(dtype, (wanted[0], wanted[3]))  # with sizes by name, which inference lacks
    return build.Unsqueeze(m, np.array([1, 2], np.int64))


@rule(
    op.GatherND(
        any_value("m"),
        op.Concat(
            op.Unsqueeze(op.Expand(any_value("rows"), any_value("s"), shared=True), constant("row_axis")),
            op.Unsqueeze(op.Expand(_COLUMNS, any_value("t"), shared=True), constant("column_axis")),
            name="pairs",
        ),
        name="result",
    ),
    min_opset=13,
)
def pairs_as_window(
    build: Builder,
    m: Value,
    rows: Value,
    columns: Value,
    row_axis: Array,
    column_axis: Array,
    pairs: Node,
    result: Node,
) -> Value:
    """gather_nd(m, [b, t]) = m[:B, :T], for all b < B and t < T"""
    if attr(result, "batch_dims", 0) or attr(pairs, "axis", 0) not in (-1, 4):
        raise Declined("not pairs of positions")
    if row_axis.tolist() not in ([-1], [4]) or column_axis.tolist() not in ([-1], [4]):
        raise Declined("not pairs of positions")
    return _window(build, m, (_limit(rows, 0), _limit(columns, 3)), shape_of(result.output))


@rule(
    op.Gather(
        op.Flatten(any_value("m"), name="flat", shared=True),
        op.Add(_COLUMNS, op.Mul(any_value("rows"), any_value("stride"), shared=True), shared=True),
        name="result",
    ),
    min_opset=13,
)
def places_as_window(
    build: Builder, m: Value, columns: Value, rows: Value, stride: Value, flat: Node, result: Node
) -> Value:  # fmt: skip
    """flat(m)[t + n b] = m[:B, :T], for all b < B and t < T, where m has B rows of n"""
    whole, wanted = shape_of(m), shape_of(result.output)
    if attr(flat, "axis", 1) != 2 or attr(result, "axis", 0) or not _is_width(stride, m):
        raise Declined("not places of a flat mask")
    if whole is None or wanted is None or len(whole) != 2 or whole[0] is None or whole[0] != wanted[0]:
        raise Declined("the mask may have more rows, into which places beyond a row's end reach")
    if len(wanted) != 5 or wanted[4] != 1:
        raise Declined("the result has other axes")
    window = _window(build, m, (_limit(rows, 0), _limit(columns, 3)), wanted[:4])
    return build.Unsqueeze(window, np.array([4], np.int64))


def _is_width(value: Value, m: Value) -> bool:
    """Whether `value` is the second size of the mask, or of the operand of the mask's Cast."""
    picked = value.producer
    shape = picked.inputs[0].producer if picked is not None and picked.op == "Gather" and picked.inputs[0] else picked
    if picked is None or shape is None or shape.op != "Shape" or shape_of(shape.inputs[0]) != shape_of(m):
        return False
    if picked is shape:
        return (attr(shape, "start", 0), attr(shape, "end")) in ((1, 2), (1, None))
    known = not attr(shape, "start", 0) and attr(picked, "axis", 0) == 0
    return known and integers(picked, 1, "indices") in ([1], [-1])


read_masks = rule_pass("read-masks", pairs_as_window, places_as_window, doc=__doc__)
