"""Slices, pads and concatenations in a row become one.

Several Slices of a value are a Split, a Slice of a Slice is a Slice, a Slice before a Pad is a Pad with negative sizes,
a Concat in a Concat is a Concat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...analysis.operands import TO_END, axis_of, integers, shape_of
from ...errors import Declined
from ...ir import Array, Constant, Dim, Graph, Node, TensorType, Value
from ...ops import attr, version_for
from ...pipeline.passes import graph_pass, rule_pass
from ...rewrite import Builder, Context, OpPattern, any_value, constant, op, origins_of, rule

_ROW, _SMALL = 48, 4096
"""Elements of a row from which Pad with negative sizes is as fast as Slice and Pad in onnxruntime, and elements of a
tensor up to which the difference does not matter: rows of 1 to 32 elements are 0.07 to 0.82 times as fast
(docs/fusion.md). `python -m tests.bench.latency basic-pitch` shows the effect, 1.03 times the original's speed in place
of 0.87."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of one axis that Slice keeps in steps of 1: from `start` up to `end`, both counted from the front."""

    start: int
    end: int  # TO_END where it reaches to the end of an axis of unknown size


def cuts_of(node: Node) -> dict[int, Cut] | None:
    """The part that a Slice keeps of each axis it names; None for steps other than 1 and unknown bounds."""
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    shape = shape_of(node.inputs[0])
    if starts is None or ends is None or len(starts) != len(ends) or shape is None:
        return None
    given = node.input(3) is not None or "axes" in node.attrs
    axes = integers(node, 3, "axes") if given else list(range(len(starts)))
    steps = [1] * len(starts) if node.input(4) is None else integers(node, 4, "steps")
    if axes is None or steps is None or len(axes) != len(starts) or any(step != 1 for step in steps):
        return None
    cuts: dict[int, Cut] = {}
    for axis, start, end in zip(axes, starts, ends):
        place = axis_of(axis, len(shape))
        cut = None if place is None or not 0 <= place < len(shape) else _cut(start, end, shape[place])
        if cut is None or place is None or place in cuts:
            return None
        cuts[place] = cut
    return cuts


def _cut(start: int, end: int, size: Dim) -> Cut | None:
    if isinstance(size, int):
        first = min(max(start + size if start < 0 else start, 0), size)
        last = min(max(end + size if end < 0 else end, 0), size)
        return Cut(first, max(first, last))
    return Cut(start, min(end, TO_END)) if start >= 0 and end >= start else None


def _slice(build: Builder, x: Value, cuts: dict[int, Cut]) -> Value:
    axes = sorted(cuts)
    bounds = [np.array(list(v), np.int64) for v in ([cuts[a].start for a in axes], [cuts[a].end for a in axes], axes)]
    return build.Slice(x, *bounds)


def _two(shared: bool) -> OpPattern:
    first = op.Slice(any_value("x"), any_value("s1"), any_value("e1"), any_value("a1", optional=True),
                     any_value("p1", optional=True), name="inner", shared=shared)  # fmt: skip
    return op.Slice(first, any_value("s2"), any_value("e2"), any_value("a2", optional=True),
                    any_value("p2", optional=True), name="outer")  # fmt: skip


@rule(_two(shared=False), min_opset=10)
def join_slices(build: Builder, x: Value, inner: Node, outer: Node) -> Value:
    """x[a:b][c:d] = x[a+c : min(b, a+d)]"""
    first, second = cuts_of(inner), cuts_of(outer)
    if first is None or second is None:
        raise Declined("a step is not 1, or a bound is not known")
    joined = dict(first)
    for axis, cut in second.items():
        before = first.get(axis, Cut(0, TO_END))
        end = before.end if cut.end >= TO_END else min(before.end, before.start + cut.end)
        joined[axis] = Cut(before.start + cut.start, end)
    return _slice(build, x, joined)


@rule(_two(shared=True), min_opset=10)
def join_slices_in_steps(build: Builder, x: Value, inner: Node, outer: Node) -> Value:
    """x[a:b:s][:, c:d:t] = x[a:b:s, c:d:t], also for several readers of x[a:b:s], which may not be parts of a Split"""
    readers = inner.output.users
    if len(readers) > 1 and any(node.op != "Slice" or cuts_of(node) is not None for node in readers):
        raise Declined("another node reads the slice, or a Split may")
    rank = len(shape_of(x) or ())
    first, second = (_bounds(node, rank) for node in (inner, outer))
    if set(first[2]) & set(second[2]):
        raise Declined("the slices are on one axis")
    return build.Slice(x, *(np.array([*a, *b], np.int64) for a, b in zip(first, second)))


def _bounds(node: Node, rank: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """The starts, ends, axes from the front and steps of a Slice; Declined where one is not constant."""
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    axes = integers(node, 3, "axes") if node.input(3) is not None else list(range(len(starts or ())))
    steps = integers(node, 4, "steps") if node.input(4) is not None else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None or not rank:
        raise Declined("a bound is not known")
    return starts, ends, [axis % rank for axis in axes], steps


@rule(op.Pad(op.Slice(any_value("x"), any_value("s"), any_value("e"), any_value("a", optional=True),
                      any_value("p", optional=True), name="cut"),
             constant("pads"), any_value("fill", optional=True), mode="constant", name="pad"),
      min_opset=11)  # fmt: skip
def join_slice_and_pad(build: Builder, x: Value, pads: Array, fill: Value | None, cut: Node, pad: Node) -> Value:
    """pad(x[a:b], p, q) = pad(x, p - a, q - (n - b)), where no side is both cut and padded"""
    shape, cuts = shape_of(x), cuts_of(cut)
    if shape is None or cuts is None or pads.size != 2 * len(shape):
        raise Declined("the bounds of the slice are not known")
    known = [d for d in shape if isinstance(d, int)]
    if (not isinstance(shape[-1], int) or shape[-1] < _ROW) and math.prod(known) > _SMALL:
        raise Declined("onnxruntime cuts short rows one by one, up to 20 times slower than Slice and Pad")
    wide = pads.reshape(2, -1).astype(np.int64).copy()
    for axis, kept in cuts.items():
        size = shape[axis]
        if kept == Cut(0, _whole(size)):
            continue
        if not isinstance(size, int) or kept.end <= kept.start:
            raise Declined("the size of an axis is not known")
        off = np.array([kept.start, size - kept.end], np.int64)
        if ((off > 0) & (wide[:, axis] != 0)).any():
            raise Declined("a side is both cut and padded")
        wide[:, axis] -= off
    return build.copy(pad, [x, wide.reshape(-1), fill])


join_slices_and_pads = rule_pass("join-slices", join_slices, join_slices_in_steps, join_slice_and_pad, doc=__doc__)


@graph_pass("split-slices")
def split_slices(graph: Graph, context: Context) -> int:
    """x[0:a], x[a:b], x[b:n] = split(x, a, b-a, n-b); x[[0]], x[[1]] = split(x, 1, 1)"""
    return sum(_split(users, context) for users in list(_readers(graph)))


def _readers(graph: Graph) -> Iterator[list[Node]]:
    """Groups of two or more Slices and Gathers of one graph that read the same value."""
    by_value: dict[tuple[Value, Graph], list[Node]] = {}
    for node in graph.walk():
        value = node.inputs[0] if node.op in ("Slice", "Gather") else None
        if value is not None and value.constant is None and node.graph is not None:
            by_value.setdefault((value, node.graph), []).append(node)
    return (nodes for nodes in by_value.values() if len(nodes) > 1)


def _split(users: Sequence[Node], context: Context) -> int:
    value = users[0].inputs[0]  # looked up only now: the value may have become an output of another Split
    if value is None:
        return 0
    parts = [(piece, node) for node in users if (piece := _piece(node, value))]
    changes = 0
    for axis in sorted({axis for (axis, _), _ in parts}):
        chain = _chain([(cut, node) for (a, cut), node in parts if a == axis], shape_of(value), axis)
        graph = chain[0][1].graph if chain else None
        if graph is not None and context.commit("split-slices", chain[0][1]):
            _replace(graph, value, axis, chain)
            changes += 1
    return changes


def _piece(node: Node, value: Value) -> tuple[int, Cut] | None:
    """The axis and part that a Slice of one axis keeps, or a Gather with an index of shape (1,); None for others."""
    if node.domain or node.output.is_unused:
        return None
    if node.op == "Slice":
        cuts, shape = cuts_of(node), shape_of(value)
        real = {} if cuts is None or shape is None else {a: c for a, c in cuts.items() if c != Cut(0, _whole(shape[a]))}
        return next(iter(real.items())) if len(real) == 1 else None
    index, shape = node.constant(1), shape_of(value)
    if node.op != "Gather" or index is None or index.shape != (1,) or shape is None:
        return None
    axis = axis_of(int(attr(node, "axis", 0)), len(shape))
    size = None if axis is None else shape[axis]
    place = int(index.array()[0])
    if axis is None or not isinstance(size, int) or not -size <= place < size:
        return None
    return axis, Cut(place % size, place % size + 1)


def _whole(size: Dim) -> int:
    return size if isinstance(size, int) else TO_END


def _chain(parts: Sequence[tuple[Cut, Node]], shape: Sequence[Dim] | None, axis: int) -> list[tuple[Cut, Node]]:
    """The parts in order, if they cover the axis without gap or overlap; else none."""
    size = None if shape is None else shape[axis]
    by_start = sorted(parts, key=lambda part: (part[0].start, part[0].end))
    position, chain = 0, []
    for cut, node in by_start:
        if cut.start != position or cut.end <= cut.start:
            return []
        chain.append((cut, node))
        position = cut.end
    return chain if len(chain) > 1 and position == size else []


def _replace(graph: Graph, value: Value, axis: int, chain: Sequence[tuple[Cut, Node]]) -> None:
    sizes = tuple(cut.end - cut.start for cut, _ in chain)
    inputs: list[Value] = [value]
    attrs: dict[str, Any] = {"axis": axis}
    if version_for(chain[0][1]) >= 13:
        inputs.append(Value(constant=Constant.of(np.array(sizes, np.int64))))
    else:
        attrs["split"] = sizes
    outputs = []
    for _, node in chain:
        out = Value(node.output.type, node.output.name)
        out.doc, out.metadata = node.output.doc, node.output.metadata
        outputs.append(out)
    first = next(node for node in graph if any(node is part for _, part in chain))
    split = Node("Split", inputs, attrs, outputs, name=first.name)
    split.origins = origins_of(*(node for _, node in chain))
    split.made_by = "split-slices"
    graph.insert_before(first, split)
    for (_, node), out in zip(chain, outputs):
        graph.replace_uses(node.output, out)
        graph.erase(node)


@graph_pass("flatten-concats")
def flatten_concats(graph: Graph, context: Context) -> int:
    """concat(concat(a, b), c) = concat(a, b, c), on one axis"""
    changes = 0
    for node in graph.walk():
        owner = node.graph
        if node.op != "Concat" or owner is None:
            continue
        inner = [v.producer if v is not None and _is_inner(node, v) else None for v in node.inputs]
        if not any(inner) or not context.commit("flatten-concat", node):
            continue
        merged = [v for old, part in zip(node.inputs, inner) for v in (part.inputs if part is not None else (old,))]
        owner.set_inputs(node, merged)
        for part in inner:
            if part is not None:
                node.origins = origins_of(node, part)
                owner.erase_unused(part)
        changes += 1
    return changes


def _is_inner(node: Node, value: Value) -> bool:
    """The operand is a Concat on the same axis that only `node` reads."""
    part = value.producer
    if part is None or part.op != "Concat" or part.domain or part.graph is not node.graph or not value.has_one_use:
        return False
    type = value.type
    rank = type.rank if isinstance(type, TensorType) else None
    axes = [axis_of(int(attr(n, "axis", 1)), rank) for n in (node, part)]
    return axes[0] is not None and axes[0] == axes[1]
