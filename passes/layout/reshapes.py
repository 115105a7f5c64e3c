"""Chains of operators that keep the order of the elements become one Reshape, or nothing.

These are Reshape, Flatten, Squeeze, Unsqueeze, and a Transpose that only moves axes of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...analysis.operands import POINTWISE, axis_of, integers, shape_of
from ...errors import Declined
from ...ir import Array, Dim, Node, Value
from ...ops import attr, same_sizes
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, Leaf, OpPattern, any_value, constant, op, rule

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin")


def _reshape(x: Leaf | OpPattern, how: str, *, name: str, shared: bool = False) -> OpPattern:
    return op(*_RESHAPES)(x, any_value(how, optional=True), name=name, shared=shared)


def sizes_for(target: Sequence[Dim] | None, source: Sequence[Dim] | None) -> list[int]:
    """The second operand of Reshape from `source` to `target`: numbers, 0 for a size that its axis keeps, one -1."""
    if target is None or source is None:
        raise Declined("a rank is unknown")
    open = sum(not isinstance(size, int) for size in target)
    sizes: list[int] = []
    for axis, size in enumerate(target):
        if isinstance(size, int):
            sizes.append(size)
        elif open > 1 and size is not None and axis < len(source) and source[axis] == size:
            sizes.append(0)
        else:
            sizes.append(-1)
    if sizes.count(-1) > 1 or 0 in target or 0 in source:  # beside a size of 0, -1 is ambiguous
        raise Declined("more than one size is unknown")
    return sizes


def _reshaped(build: Builder, x: Value, target: Sequence[Dim] | None, last: Node) -> Value:
    """`x` in the shape `target`; x itself if that is its shape."""
    source = shape_of(x)
    if same_sizes(source, target) and not last.output.is_result:
        return x
    sizes = sizes_for(target, source)
    return build.Reshape(x, np.array(sizes, np.int64))


@rule(_reshape(_reshape(any_value("x"), "a", name="first", shared=True), "b", name="last"), min_opset=5)
def join_reshapes(build: Builder, x: Value, last: Node) -> Value:
    """reshape_b(reshape_a(x)) = reshape_c(x)"""
    return _reshaped(build, x, shape_of(last.output), last)


@rule(op.Reshape(_reshape(any_value("x"), "a", name="first", shared=True), constant("sizes"), name="last"), min_opset=5)
def skip_reshape(build: Builder, x: Value, sizes: Array, last: Node) -> Value:
    """reshape_b(reshape_a(x)) = reshape_b(x), where b copies no size of its operand"""
    if not sizes.all() or attr(last, "allowzero", 0):
        raise Declined("a size is copied from the first reshape")
    return build.Reshape(x, sizes)


@rule(_reshape(op(*POINTWISE)(_reshape(any_value("x"), "a", name="first"), name="f"), "b", name="last"), min_opset=5)
def join_reshapes_around(build: Builder, x: Value, f: Node, last: Node) -> Value:
    """reshape_b(f(reshape_a(x))) = reshape_c(f(x)), for f element by element"""
    return _reshaped(build, build.copy(f, [x]), shape_of(last.output), last)


@rule(_reshape(op.Pad(_reshape(any_value("x"), "a", name="first", shared=True), constant("pads"),
                      any_value("fill", optional=True), name="pad"), "b", name="last"), min_opset=11)  # fmt: skip
def join_reshapes_around_pad(
    build: Builder, x: Value, pads: Array, fill: Value | None, first: Node, pad: Node, last: Node
) -> Value:
    """reshape_b(pad(reshape_a(x))) = pad(x), where a and b only add and remove axes of size 1"""
    source, middle, target = shape_of(x), shape_of(first.output), shape_of(last.output)
    if source is None or middle is None or target is None or len(source) != len(target):
        raise Declined("a rank is unknown or changes")
    padded = {d: pair for d, pair in enumerate(pads.reshape(2, -1).T.tolist()) if any(pair)}
    places = _places(source, middle)
    if places is None or any(d not in places for d in padded):
        raise Declined("an axis that is padded comes from the reshape")
    wide = np.zeros((2, len(source)), np.int64)
    for d, pair in padded.items():
        wide[:, places[d]] = pair
    after = [s if not any(p) else _sum(s, p) for s, p in zip(source, wide.T.tolist())]
    if not same_sizes(after, target):
        raise Declined("the reshapes do not undo each other")
    return build.copy(pad, [x, wide.reshape(-1), fill])


def _sum(size: Dim, pads: Sequence[int]) -> Dim:
    return size + sum(pads) if isinstance(size, int) else None


def _places(source: Sequence[Dim], target: Sequence[Dim]) -> dict[int, int] | None:
    """The axis of `source` for each axis of `target` that is not of size 1; None where these are not the same sizes."""
    olds = [i for i, d in enumerate(source) if d != 1]
    news = [i for i, d in enumerate(target) if d != 1]
    same = len(olds) == len(news) and all(source[o] is not None and source[o] == target[n] for o, n in zip(olds, news))
    return dict(zip(news, olds)) if same else None


@rule(_reshape(op.Transpose(any_value("x"), name="turn"), "how", name="last"))
def absorb_reshape(build: Builder, x: Value, turn: Node, last: Node) -> Value:
    """reshape(permute_p(x)) = permute_q(x), where the reshape only moves axes of size 1"""
    source, target, perm = shape_of(x), shape_of(last.output), turn.attrs.get("perm")
    middle = shape_of(turn.output)
    if source is None or target is None or middle is None or perm is None or len(target) != len(source):
        raise Declined("a rank is unknown or changes")
    places = _places(middle, target)
    if places is None:
        raise Declined("more than axes of size 1 move")
    ones = iter(axis for axis, size in enumerate(source) if size == 1)
    return build.Transpose(x, perm=[perm[places[i]] if i in places else next(ones) for i in range(len(target))])


@rule(op.Transpose(_reshape(any_value("x"), "how", name="first", shared=True), name="turn"))
def absorb_into_transpose(build: Builder, x: Value, first: Node, turn: Node) -> Value:
    """permute_p(reshape(x)) = permute_q(x), where the reshape only moves axes of size 1"""
    source, middle, perm = shape_of(x), shape_of(first.output), turn.attrs.get("perm")
    if source is None or middle is None or perm is None or len(middle) != len(source):
        raise Declined("a rank is unknown or changes")
    places = _places(source, middle)
    if places is None:
        raise Declined("more than axes of size 1 move")
    ones = iter(axis for axis, size in enumerate(source) if size == 1)
    return build.Transpose(x, perm=[places[i] if i in places else next(ones) for i in perm])


@rule(op.Transpose(any_value("x"), name="turn"), min_opset=5)
def reshape_for_transpose(build: Builder, x: Value, turn: Node) -> Value:
    """permute(x) = reshape(x), where only axes of size 1 move, beside an operator that reshapes"""
    source, perm = shape_of(x), turn.attrs.get("perm")
    if (
        source is None
        or perm is None
        or [p for p in perm if source[p] != 1] != sorted(p for p in perm if source[p] != 1)
    ):
        raise Declined("more than axes of size 1 move")
    users = turn.output.users
    before = x.producer is not None and x.producer.op in _RESHAPES
    if not before and not (users and all(user.op in _RESHAPES for user in users)):
        raise Declined("no reshape is beside it")
    return _reshaped(build, x, [source[p] for p in perm], turn)


@rule(op(*_REDUCTIONS)(any_value("x"), any_value("axes", optional=True), keepdims=0, name="reduce"), min_opset=5)
def squeeze_for_reduction(build: Builder, x: Value, reduce: Node) -> Value:
    """sum(x, axes) = squeeze(x, axes), where all axes are of size 1; a mean, product or extreme alike"""
    shape, axes = shape_of(x), integers(reduce, 1, "axes")
    if shape is None or not axes:
        raise Declined("the axes are not known")
    gone = sorted(axis if axis >= 0 else axis + len(shape) for axis in axes)
    if any(shape[axis] != 1 for axis in gone):
        raise Declined("an axis may be larger than 1")
    if build.opset < 13:
        return build.Squeeze(x, axes=gone)
    return build.Squeeze(x, np.array(gone, np.int64))


@rule(_reshape(op.Gather(any_value("x"), constant("i"), name="gather"), "how", name="last"))
def gather_with_axis(build: Builder, x: Value, i: Array, gather: Node, last: Node) -> Value:
    """unsqueeze(x[i], axis) = x[[i]] on that axis, and squeeze(x[[i]], axis) = x[i]"""
    source, target = shape_of(x), shape_of(last.output)
    if source is None or target is None or i.size != 1 or 0 in source:
        raise Declined("the rank or the index is not known")
    axis = axis_of(int(attr(gather, "axis", 0)), len(source))
    rest = [d for a, d in enumerate(source) if a != axis]
    kept = [1 if a == axis else d for a, d in enumerate(source)]
    if last.op in ("Squeeze", "Unsqueeze") and _axes_are(last, axis):
        index = i.reshape(1) if last.op == "Unsqueeze" else i.reshape(())
    elif same_sizes(target, kept) and i.ndim == 0:
        index = i.reshape(1)
    elif same_sizes(target, rest) and i.ndim == 1:
        index = i.reshape(())
    else:
        raise Declined("another axis is added or removed")
    if index.ndim == i.ndim or i.ndim > 1:
        raise Declined("the index has that form already")
    return build.copy(gather, [x, index])


def _axes_are(node: Node, axis: int | None) -> bool:
    axes = integers(node, 1, "axes")
    return axes is not None and len(axes) == 1 and axis is not None and axes[0] == axis


join_shape_changes = rule_pass(
    "join-reshapes", join_reshapes, skip_reshape, join_reshapes_around, join_reshapes_around_pad, absorb_reshape,
    absorb_into_transpose, reshape_for_transpose, squeeze_for_reduction, gather_with_axis, doc=__doc__,
)  # fmt: skip
