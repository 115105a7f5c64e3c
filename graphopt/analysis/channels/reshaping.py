"""Operators that rename positions: Reshape, Transpose, Flatten, Squeeze, Unsqueeze, Expand, blocks to space.

A merged axis repeats the elements of the one axis in it that can be cut. Of an axis that is split, one factor is cut:
the outermost (heads, not what is within a head), which ties the positions along the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ...ir import Node, Value
from ...ops import attr, version_for
from .alignment import Block, align
from .elements import Ids
from .elementwise import where
from .tracker import Axes, Shuffle, Tracker, Unclear, integers, transfer

_LARGEST = 1 << 22


@transfer("Transpose")
def transpose(t: Tracker, node: Node) -> None:
    """y.axes[k] = x.axes[perm[k]]"""
    axes = t.axes(node.inputs[0])
    t.set(node.output, [axes[k] for k in _perm(node, len(axes))])


def _perm(node: Node, rank: int) -> tuple[int, ...]:
    return tuple(node.attrs.get("perm") or range(rank - 1, -1, -1))


@transfer("Reshape")
def reshape(t: Tracker, node: Node) -> None:
    """Axes are merged and split; sizes written in the shape are corrected."""
    x = node.inputs[0]
    assert x is not None
    if all(ids is None for ids in t.axes(x)):
        return
    shuffled = _shuffle(t, node)
    if shuffled is not None:
        t.skip.update(shuffled.nodes[1:])
        t.shuffles.append(shuffled)
        made = list(t.axes(x))
        made[shuffled.axis] = shuffled.elements[shuffled.order]
        t.set(shuffled.nodes[2].output, made)
        return
    shape = Shape.of(t, node)
    regroup(t, node, x, node.output, align(t.sizes(x), shape.sizes(t, x, node.output)), shape)


class Shape:
    """The sizes a Reshape or Expand asks for: literal numbers, and where each is written."""

    def __init__(self, places: Mapping[int, tuple[Node, int | str, int, tuple[int, ...]]], count: int) -> None:
        self.places, self.count = places, count  # axis: node, slot or attribute, index, the whole vector

    @classmethod
    def of(cls, t: Tracker, node: Node) -> Shape:
        """From a constant, an attribute, or a Concat of constants and computed sizes. Unclear for anything else."""
        if "shape" in node.attrs:
            vector = tuple(int(d) for d in node.attrs["shape"])
            return cls({k: (node, "shape", k, vector) for k in range(len(vector))}, len(vector))
        given = node.input(1)
        known = integers(given)
        if known is not None:
            return cls({k: (node, 1, k, known) for k in range(len(known))}, len(known))
        source = None if given is None else given.producer
        if source is None or source.op != "Concat":
            raise Unclear("its shape is computed")
        places: dict[int, tuple[Node, int | str, int, tuple[int, ...]]] = {}
        axis = 0
        for slot, part in enumerate(source.inputs):
            known = integers(part)
            size = t.sizes(part)[0] if part is not None and known is None else len(known or ())
            if not isinstance(size, int):
                raise Unclear("its shape is computed")
            if known is not None:
                places.update({axis + k: (source, slot, k, known) for k in range(size)})
            axis += size
        return cls(places, axis)

    def literal(self, axis: int) -> int | None:
        """The number written for an axis of the result; None where it is computed."""
        place = self.places.get(axis)
        return None if place is None else place[3][place[2]]

    def sizes(self, t: Tracker, x: Value, out: Value) -> list[int | str | None]:
        """The sizes of the result, as far as its type and the literals tell."""
        known = t.sizes(out)
        given = t.sizes(x)
        sizes: list[int | str | None] = []
        for axis, size in enumerate(known):
            literal = self.literal(axis)
            if literal is not None and literal > 0:
                size = literal
            elif literal == 0 and axis < len(given):
                size = given[axis]
            sizes.append(size)
        return sizes

    def correct(self, t: Tracker, axis: int, ids: Ids | None, stays: bool) -> None:
        """Record that the size of an axis counts `ids`; `stays` where a zero copies it."""
        if ids is None:
            return
        literal = self.literal(axis)
        if literal is None:
            raise Unclear("a size that would change is computed")
        if literal > 0 or (literal == 0 and not stays):
            node, place, index, vector = self.places[axis]
            t.resize(node, place, vector, index, ids)


def regroup(t: Tracker, node: Node, x: Value, out: Value, blocks: list[Block], shape: Shape) -> None:
    """Set the axes of `out`, which holds x's positions in row-major order."""
    axes, made = t.axes(x), dict[int, "Ids | None"]()
    for block in blocks:
        held = [axis for axis in block.before if axes[axis] is not None]
        if held and not block.known:
            raise Unclear("how it regroups axes is not known")
        if not held:
            made.update(dict.fromkeys(block.after))
            continue
        made.update(_regroup_block(t, node, x, block, [_size(t, out, shape, block, k) for k in block.after]))
    final = tuple(made.get(axis) for axis in range(len(made)))
    for axis, ids in enumerate(final):
        shape.correct(t, axis, ids, stays=axis < len(axes) and axes[axis] is ids)
    t.set(out, final)


def _size(t: Tracker, out: Value, shape: Shape, block: Block, axis: int) -> int | str | None:
    literal = shape.literal(axis)
    if block.solved is not None and block.solved[0] == axis:
        return block.solved[1]
    return literal if literal is not None and literal > 0 else t.size(out, axis)


def _int(size: int | str | None) -> int:
    if not isinstance(size, int):
        raise Unclear("how it splits an axis is not known")
    return size


def _regroup_block(
    t: Tracker, node: Node, x: Value, block: Block, wanted: list[int | str | None]
) -> dict[int, Ids | None]:
    flat = _merge(t, x, block.before)
    if len(block.after) == 1:
        return {block.after[0]: flat}
    if not block.after:
        t.block(flat, f"{where(node)} drops it")
        return {}
    after = [_int(size) for size in wanted]
    factor = _factor(after, block, len(t.axes(x)))
    tied = np.moveaxis(flat.reshape(after), factor, 0).reshape(after[factor], -1)
    for column in range(1, tied.shape[1]):
        if not np.array_equal(tied[:, 0], tied[:, column]):
            t.elements.unite(tied[:, 0], tied[:, column])
    made: dict[int, Ids | None] = dict.fromkeys(block.after)
    made[block.after[factor]] = tied[:, 0]
    return made


def _factor(sizes: list[int], block: Block, rank: int) -> int:
    """Which factor of a split axis is cut: the first of several positions.

    Of the last axis split in three (query, key and value; heads; within a head) it is the second.
    """
    several = [k for k, size in enumerate(sizes) if size > 1]
    if not several:
        return 0
    last = block.before[-1] == rank - 1 and len(block.before) == 1
    return several[1] if last and len(several) > 2 else several[0]


def _merge(t: Tracker, x: Value, before: Sequence[int]) -> Ids:
    axes = t.axes(x)
    held = [axis for axis in before if axes[axis] is not None]
    if len(held) > 1:
        raise Unclear("it merges axes that can both be cut")
    sizes = [_int(t.size(x, axis)) for axis in before]
    if math.prod(sizes) > _LARGEST:
        raise Unclear("the merged axis is very long")
    ids = axes[held[0]]
    assert ids is not None
    view = ids.reshape([len(ids) if axis == held[0] else 1 for axis in before])
    return np.ascontiguousarray(np.broadcast_to(view, sizes)).reshape(-1)


def _shuffle(t: Tracker, first: Node) -> Shuffle | None:
    """Reshape, Transpose, Reshape that only reorder one axis."""
    middle = _sole_user(first, "Transpose")
    last = None if middle is None else _sole_user(middle, "Reshape")
    if middle is None or last is None:
        return None
    x = first.inputs[0]
    assert x is not None
    axes = t.axes(x)
    held = [axis for axis, ids in enumerate(axes) if ids is not None]
    if len(held) != 1 or len(t.axes(last.output)) != len(axes):
        return None
    split = align(t.sizes(x), Shape.of(t, first).sizes(t, x, first.output))
    factors = next((b for b in split if b.before == (held[0],)), None)
    if factors is None or len(factors.after) < 2 or any(len(b.after) != 1 for b in split if b is not factors):
        return None
    perm = _perm(middle, len(t.axes(first.output)))
    sizes = [_int(t.size(first.output, k)) for k in factors.after]
    order = [k for k in perm if k in factors.after]
    place = perm.index(order[0])
    if perm[place : place + len(order)] != tuple(order):
        return None
    rest = [k for k in perm if k not in factors.after]
    if rest != sorted(rest) or place != held[0] or t.size(last.output, held[0]) != len(axes[held[0]]):  # type: ignore[arg-type]
        return None
    merged = align([_at(t, first.output, k) for k in perm], Shape.of(t, last).sizes(t, middle.output, last.output))
    if not any(b.before == tuple(range(place, place + len(order))) and b.after == (held[0],) for b in merged):
        return None
    index = np.arange(math.prod(sizes)).reshape(sizes)
    index = index.transpose([factors.after.index(k) for k in order]).reshape(-1)
    ids = axes[held[0]]
    assert ids is not None
    return Shuffle((first, middle, last), held[0], index, ids)


def _at(t: Tracker, value: Value, axis: int) -> int | str | None:
    return t.sizes(value)[axis]


def _sole_user(node: Node, op: str) -> Node | None:
    use = node.output.uses[0] if node.output.has_one_use else None
    return (
        use.node if use is not None and use.node.op == op and use.slot == 0 and use.node.graph is node.graph else None
    )


@transfer("Flatten")
def flatten(t: Tracker, node: Node) -> None:
    """[a, b, c, d] to [a, b c d]"""
    x = node.inputs[0]
    assert x is not None
    axes = t.axes(x)
    axis = int(attr(node, "axis", 1))
    axis = axis + len(axes) if axis < 0 else axis
    made: list[Ids | None] = []
    for part in (range(axis), range(axis, len(axes))):
        made.append(_merge(t, x, part) if any(axes[k] is not None for k in part) else None)
    t.set(node.output, made)


@transfer("Squeeze", "Unsqueeze")
def squeeze(t: Tracker, node: Node) -> None:
    """Axes of one position go, or come."""
    axes = t.axes(node.inputs[0])
    given = node.attrs.get("axes") if version_for(node) < 13 else integers(node.input(1))
    if given is None:
        raise Unclear("its axes are not given")
    if node.op == "Squeeze":
        gone = {int(k) % len(axes) for k in given}
        t.set(node.output, [ids for k, ids in enumerate(axes) if k not in gone])
        return
    rank = len(axes) + len(given)
    new = {int(k) % rank for k in given}
    old = iter(axes)
    t.set(node.output, [None if k in new else next(old) for k in range(rank)])


@transfer("Expand")
def expand(t: Tracker, node: Node) -> None:
    """Axes of one position are repeated; the others stay, and a size written for them is corrected."""
    x = node.inputs[0]
    assert x is not None
    axes = t.axes(x)
    if all(ids is None for ids in axes):
        return
    shape = Shape.of(t, node)
    rank = max(len(axes), shape.count)
    made: Axes = (*(None for _ in range(rank - len(axes))), *axes)
    for k, ids in enumerate(made):
        own = k - (rank - shape.count)
        if own >= 0 and ids is not None and shape.literal(own) != 1:
            shape.correct(t, own, ids, False)
    t.set(node.output, made)


@transfer("DepthToSpace", "SpaceToDepth")
def blocks(t: Tracker, node: Node) -> None:
    """A channel of the image is b² channels of the stack: they go together."""
    axes = t.axes(node.inputs[0])
    t.fix(axes[2:], f"{where(node)} mixes it")
    ids, square = axes[1], int(attr(node, "blocksize", 1)) ** 2
    if ids is None:
        return
    if node.op == "SpaceToDepth":
        t.set(node.output, (axes[0], np.tile(ids, square), None, None))
        return
    column_row = attr(node, "mode", "DCR") == "CRD"
    tied = ids.reshape(-1, square) if column_row else ids.reshape(square, -1).T
    for column in range(1, square):
        t.elements.unite(tied[:, 0], tied[:, column])
    t.set(node.output, (axes[0], np.ascontiguousarray(tied[:, 0]), None, None))
