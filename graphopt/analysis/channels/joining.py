"""Operators that join, slice and extend axes: Concat, Split, Slice, Pad, Resize; and operators that read sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import Declined
from ...ir import Node, Value
from ...ops import attr, version_for
from .axes import Number
from .counting import numbers_of, reconcile
from .elements import Ids
from .elementwise import where
from .tracker import Tracker, integers, transfer


@transfer("Concat")
def concat(t: Tracker, node: Node) -> None:
    """Channels are concatenated on `axis` and united on the other axes."""
    operands = [v for v in node.inputs if v is not None]
    axes = [t.axes(v) for v in operands]
    axis = int(attr(node, "axis", 1)) % len(axes[0])
    joined: list[Ids | None] = [
        _joined(t, [own[k] for own in axes], f"{where(node)} joins it with values that stay") if k != axis else None
        for k in range(len(axes[0]))
    ]
    if any(own[axis] is not None for own in axes):
        joined[axis] = np.concatenate([_positions(t, v, axis) for v in operands])
    t.set(node.output, joined)


def _joined(t: Tracker, parts: Sequence[Ids | None], reason: str) -> Ids | None:
    """The united axes; None where one is fixed, which fixes all: then another axis may merge with the result."""
    joined = t.join(parts, reason)
    return None if any(ids is None for ids in parts) else joined


def _positions(t: Tracker, value: Value, axis: int) -> Ids:
    """The elements of an axis; a fixed axis gets new, fixed elements."""
    ids = t.axes(value)[axis]
    if ids is not None:
        return ids
    size = t.size(value, axis)
    if not isinstance(size, int):
        raise Declined("a size is not known")
    fixed = t.elements.fresh(size)
    t.fix(fixed, "it is joined from values that stay")
    return fixed


@transfer("Split")
def split(t: Tracker, node: Node) -> None:
    """Each result is a run of `axis`; the stored sizes are corrected."""
    x = node.inputs[0]
    assert x is not None
    axes = t.axes(x)
    axis = int(attr(node, "axis", 0)) % len(axes)
    ids = axes[axis]
    if ids is None:
        for out in node.outputs:
            t.set(out, axes)
        return
    sizes = _split_sizes(t, node, axis, len(ids))
    ends = np.cumsum(sizes)
    place: int | str = 1 if version_for(node) >= 13 else "split"
    for index, (out, size, end) in enumerate(zip(node.outputs, sizes, ends)):
        part = ids[end - size : end]
        t.set(out, (*axes[:axis], part, *axes[axis + 1 :]))
        t.update_size(node, place, sizes, index, part)


def _split_sizes(t: Tracker, node: Node, axis: int, total: int) -> tuple[int, ...]:
    given = node.attrs.get("split") or integers(node.input(1))
    if given is None and node.input(1) is not None:
        raise Declined("its sizes are computed")
    if given is None:
        each = -(-total // len(node.outputs))
        given = [min(each, total - k * each) for k in range(len(node.outputs))]
    if sum(given) != total:
        raise Declined("its sizes do not fit")
    return tuple(int(size) for size in given)


@transfer("Slice")
def slice_(t: Tracker, node: Node) -> None:
    """A run of consecutive positions; Declined for other steps on an axis with channels."""
    x = node.inputs[0]
    assert x is not None
    axes = list(t.axes(x))
    old = version_for(node) < 10
    read = None if old else t.vectors.get(node.inputs[2])  # type: ignore[arg-type]
    if all(ids is None for ids in axes):
        for size in () if read is None else read.numbers:
            t.fix_number(size, f"{where(node)} reads its size")
        return
    starts, ends, over, steps = (
        _ints(node, name, slot, old) for slot, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if over is None and (old or node.input(3) is None):
        over = tuple(range(len(starts or ())))
    if steps is None and (old or node.input(4) is None):
        steps = (1,) * len(over or ())
    if over is None:
        raise Declined("its axes are computed")
    for index, axis in enumerate(over):
        ids = axes[axis]
        number = None if read is None else read.numbers[index]
        if number is not None and (ids is None or not t.same(number.counts, ids) or starts is None or starts[index]):
            t.fix_number(number, f"{where(node)} reads its size")
        elif number is not None and steps is not None and steps[index] == 1:
            continue  # from the first position to the last
        if ids is None:
            continue
        if starts is None or ends is None or steps is None or steps[index] != 1:
            raise Declined("its bounds are computed, or its step is not 1")
        start, end, _ = slice(starts[index], ends[index]).indices(len(ids))
        if end <= start:
            raise Declined("it is empty")
        axes[axis] = ids[start:end]
        t.update_size(node, "starts" if old else 1, starts, index, ids[:start])
        t.update_size(node, "ends" if old else 2, ends, index, ids[:end])
    t.set(node.output, axes)


def _ints(node: Node, name: str, slot: int, old: bool) -> tuple[int, ...] | None:
    return node.attrs.get(name) if old else integers(node.input(slot))


@transfer("Pad")
def pad(t: Tracker, node: Node) -> None:
    """Padded channels of zeros can be removed too. Declined for channels padded by copies."""
    x = node.inputs[0]
    assert x is not None
    axes = list(t.axes(x))
    cuttable = [k for k, ids in enumerate(axes) if ids is not None]
    if not cuttable:
        return
    if node.input(3) is not None:
        raise Declined("it pads chosen axes")
    place: int | str = "pads" if "pads" in node.attrs else 1
    pads = node.attrs.get("pads") or integers(node.input(1))
    if pads is None:
        raise Declined("its widths are computed")
    rank = len(axes)
    for axis in cuttable:
        before, after = int(pads[axis]), int(pads[axis + rank])
        if not before and not after:
            continue
        if attr(node, "mode", "constant") != "constant" or before < 0 or after < 0:
            raise Declined("it pads channels by copies, or cuts them")
        new = [t.elements.fresh(before), t.elements.fresh(after)]
        for ids, index in zip(new, (axis, axis + rank)):
            if ids.size:
                t.update_size(node, place, pads, index, ids)
        own = axes[axis]
        assert own is not None
        axes[axis] = np.concatenate([new[0], own, new[1]])
    t.set(node.output, axes)


@transfer("Resize", "Upsample")
def resize(t: Tracker, node: Node) -> None:
    """Axes that keep their size keep their elements; their stored sizes are corrected."""
    x = node.inputs[0]
    assert x is not None
    axes = t.axes(x)
    if attr(node, "axes") or attr(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Declined("it resizes chosen axes")
    if node.input(3) is not None:
        numbers = numbers_of(t, node.input(3), node, 3)
        if numbers is None or len(numbers) != len(axes):
            raise Declined("its sizes are computed")
        t.set(node.output, [_resized(t, node, ids, number) for ids, number in zip(axes, numbers)])
        return
    scales = _scales(node)
    if scales is None or len(scales) != len(axes):
        raise Declined("its scales are computed")
    t.fix_all([ids for ids, scale in zip(axes, scales) if scale != 1], f"{where(node)} mixes it")
    t.set(node.output, [ids if scale == 1 else None for ids, scale in zip(axes, scales)])


def _resized(t: Tracker, node: Node, ids: Ids | None, number: Number) -> Ids | None:
    """The elements of an axis of a Resize to sizes: an axis that keeps its size keeps its channels."""
    if ids is not None and number.size != len(ids):
        t.fix(ids, f"{where(node)} mixes it")
        ids = None
    reconcile(t, number, ids, False)
    return ids


def _scales(node: Node) -> Sequence[float] | None:
    given: Sequence[float] | None = node.attrs.get("scales")
    if given is not None:
        return given
    value = node.input(2 if node.op == "Resize" and version_for(node) >= 11 else 1)
    return None if value is None or value.constant is None else [float(s) for s in value.constant.array()]


@transfer("CumSum")
def cumulative(t: Tracker, node: Node) -> None:
    """Sums along one axis, which is fixed."""
    axes = list(t.axes(node.inputs[0]))
    given = integers(node.input(1))
    if given is None:
        raise Declined("its axis is computed")
    t.fix(axes[given[0]], f"{where(node)} runs over it")
    t.set(node.output, axes)


@transfer("GatherElements", "ScatterElements")
def elements_by_index(t: Tracker, node: Node) -> None:
    """Positions on `axis`, accessed by indices, are fixed; positions on the other axes are united one by one."""
    data = node.inputs[0]
    assert data is not None
    axes, others = t.axes(data), [v for v in node.inputs[1:] if v is not None]
    axis = int(attr(node, "axis", 0)) % len(axes)
    reason = f"{where(node)} goes by indices along it"
    t.fix_all([axes[axis], *(t.axes(v)[axis] for v in others)], reason)
    joined: list[Ids | None] = []
    for k in range(len(axes)):
        parts = [axes[k], *(t.axes(v)[k] for v in others)]
        if k == axis or len({len(ids) for ids in parts if ids is not None}) > 1:  # indices may reach fewer positions
            t.fix_all(parts, reason)
            joined.append(None)
        else:
            joined.append(t.join(parts, f"{where(node)} joins it with values that stay"))
    t.set(node.output, joined)


@transfer("GatherND", "ScatterND")
def tuples_by_index(t: Tracker, node: Node) -> None:
    """Indices [..., k] name positions on k axes; the elements on the axes behind them pass through."""
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None and indices is not None
    axes, picks = t.axes(data), t.axes(indices)
    depth, batch = t.size(indices, len(picks) - 1), int(attr(node, "batch_dims", 0))
    if not isinstance(depth, int):
        raise Declined("how many axes it indexes is not known")
    first = batch + depth
    t.fix_all((*axes[:first], *picks), f"{where(node)} goes by indices along it")
    if node.op == "GatherND":
        t.set(node.output, (*(None for _ in picks[:-1]), *axes[first:]))
        return
    updates = t.axes(node.inputs[2])
    t.fix_all(updates[: len(picks) - 1], f"{where(node)} goes by indices along it")
    reason = f"{where(node)} joins it with values that stay"
    rest = [t.join(pair, reason) for pair in zip(axes[first:], updates[len(picks) - 1 :])]
    t.set(node.output, (*(None for _ in axes[:first]), *rest))


@transfer("Size", "NonZero")
def sizes(t: Tracker, node: Node) -> None:
    """All axes are fixed, as the number of positions is read."""
    t.fix_all(t.axes(node.inputs[0]), f"{where(node)} reads its size")
