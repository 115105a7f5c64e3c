"""Operators that regroup positions: Reshape, Transpose, Flatten, Squeeze, Unsqueeze, Expand, blocks to space.

A merged axis repeats the elements of its only factor that has any. When an axis is split, one factor keeps its
elements, the outermost (heads, not positions within a head), and the positions along the other factors are united.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...errors import Declined
from ...ir import Dim, Node, Value
from ...ops import attr, version_for
from .alignment import Block, align
from .axes import Axes, Axis, Folded, Number
from .counting import filled, fix_sizes, numbers_of, reconcile, stored
from .couplings import Shuffle
from .elements import Ids
from .elementwise import where
from .tracker import Tracker, integers, transfer

_LARGEST = 1 << 22
"""The most positions of a merged axis whose elements are materialized, 32 MB: a bound on memory, not tuned."""


@transfer("Transpose")
def transpose(t: Tracker, node: Node) -> None:
    """y.axes[k] = x.axes[perm[k]]"""
    axes = t.raw_axes(node.inputs[0])
    t.set(node.output, [axes[k] for k in _perm(node, len(axes))])


def _perm(node: Node, rank: int) -> tuple[int, ...]:
    return tuple(node.attrs.get("perm") or range(rank - 1, -1, -1))


@transfer("Reshape")
def reshape(t: Tracker, node: Node) -> None:
    """Axes are merged and split; sizes stored in the shape are corrected."""
    x = node.inputs[0]
    assert x is not None
    if all(axis is None for axis in t.raw_axes(x)):
        _fix_shape(t, node)
        return
    shuffled = _shuffle(t, node)
    if shuffled is not None:
        t.done.update(shuffled.nodes[1:])
        t.shuffles.append(shuffled)
        axes = list(t.axes(x))
        axes[shuffled.axis] = shuffled.elements[shuffled.order]
        t.set(shuffled.nodes[2].output, axes)
        return
    regroup(t, x, node.output, RequestedShape.of(t, node))


def _fix_shape(t: Tracker, node: Node) -> None:
    """The shape operand of a value without channels."""
    shape = node.input(1)
    if shape is not None:
        fix_sizes(t, shape, f"{where(node)} reads its size")


class RequestedShape:
    """The shape operand of a Reshape or Expand."""

    def __init__(self, numbers: Sequence[Number]) -> None:
        self.numbers, self.count = numbers, len(numbers)

    @classmethod
    def of(cls, t: Tracker, node: Node) -> RequestedShape:
        """From a constant, an attribute, or a followed vector. Declined for any other shape."""
        if "shape" in node.attrs:
            return cls(stored(node, "shape", node.attrs["shape"]))
        numbers = numbers_of(t, node.input(1), node, 1)
        if numbers is None:
            raise Declined("its shape is computed")
        return cls(numbers)

    def literal(self, axis: int) -> int | None:
        """The constant size of an axis of the result; None where it is computed."""
        number = self.numbers[axis] if axis < self.count else None
        return number.size if number is not None and number.place is not None and isinstance(number.size, int) else None

    def sizes(self, t: Tracker, x: Value, out: Value) -> list[Dim]:
        """The sizes of the result, as far as its type, constant sizes and sizes read at run time determine them."""
        given = t.sizes(x)
        sizes: list[Dim] = []
        for axis, size in enumerate(t.sizes(out)):
            literal = self.literal(axis)
            read = self.numbers[axis].size if axis < self.count else None
            if literal is not None and literal > 0:
                size = literal
            elif literal == 0 and axis < len(given):
                size = given[axis]
            elif literal is None and read is not None and not isinstance(size, int):
                size = read
            sizes.append(size)
        return sizes


def regroup(t: Tracker, x: Value, out: Value, shape: RequestedShape) -> None:
    """Set the axes of `out`, which holds the positions of `x` in row-major order."""
    given = t.raw_axes(x)
    flat = _unfolded(t, x)
    sizes = shape.sizes(t, x, out)
    regrouped: dict[int, Axis] = {}
    for block in align([size for size, _ in flat], sizes):
        cuttable = any(flat[axis][1] is not None for axis in block.before)
        if cuttable and not block.known:
            raise Declined("how it regroups axes is not known")
        regrouped.update(_regroup_block(t, flat, block, sizes) if cuttable else dict.fromkeys(block.after))
    final = [regrouped.get(axis) for axis in range(len(regrouped))]
    for k, axis in enumerate(final):
        stays = axis is not None and k < len(given) and given[k] is axis
        reconcile(t, shape.numbers[k] if k < shape.count else None, axis, stays)
    t.set(out, final)


Factor = tuple[Dim, "Ids | None"]
"""Size and elements of an axis, or of one of the axes merged into it."""


def _unfolded(t: Tracker, x: Value) -> list[Factor]:
    """The axes of a value, with a folded axis as its factors."""
    flat: list[Factor] = []
    for size, axis in zip(t.sizes(x), t.raw_axes(x)):
        if isinstance(axis, Folded):
            before: list[Factor] = [(s, None) for s in axis.outer]
            flat += [*before, (len(axis.ids), axis.ids), *((s, None) for s in axis.inner)]
        else:
            flat.append((size, axis))
    return flat


def _int(size: Dim) -> int:
    if not isinstance(size, int):
        raise Declined("how it splits an axis is not known")
    return size


def _regroup_block(t: Tracker, flat: list[Factor], block: Block, sizes: Sequence[Dim]) -> dict[int, Axis]:
    merged = _merge([flat[axis] for axis in block.before])
    if len(block.after) == 1:
        return {block.after[0]: merged}
    ids = t.plain(merged)
    if ids is None or not block.after:
        t.fix(ids, f"{t.location} drops it")
        return dict.fromkeys(block.after)
    solved = {} if block.solved is None else {block.solved[0]: block.solved[1]}
    after = [_int(solved.get(axis, sizes[axis])) for axis in block.after]
    factor = _factor(ids, after, block, len(flat))
    united = np.moveaxis(ids.reshape(after), factor, 0).reshape(after[factor], -1)
    for column in range(1, united.shape[1]):
        if not np.array_equal(united[:, 0], united[:, column]):
            t.elements.unite(united[:, 0], united[:, column])
    axes: dict[int, Axis] = dict.fromkeys(block.after)
    axes[block.after[factor]] = united[:, 0]
    return axes


def _merge(factors: Sequence[Factor]) -> Axis:
    cuttable = [k for k, (_, ids) in enumerate(factors) if ids is not None]
    if len(cuttable) > 1:
        raise Declined("it merges axes that can both be cut")
    at = cuttable[0]
    ids, sizes = factors[at][1], [size for size, _ in factors]
    assert ids is not None
    if len(factors) == 1:
        return ids
    if not all(isinstance(size, int) for size in sizes):
        return Folded(tuple(sizes[:at]), ids, tuple(sizes[at + 1 :]))
    known = [_int(size) for size in sizes]
    if math.prod(known) > _LARGEST:
        raise Declined("the merged axis is very long")
    view = ids.reshape([len(ids) if k == at else 1 for k in range(len(known))])
    return np.ascontiguousarray(np.broadcast_to(view, known)).reshape(-1)


def _factor(ids: Ids, sizes: list[int], block: Block, rank: int) -> int:
    """The factor of a split axis that keeps its elements: a factor along which elements differ and along all others
    repeat, if any; else the first factor of more than one position.

    Of a last axis split in three (query, key and value; heads; positions within a head), the second.
    """
    several = [k for k, size in enumerate(sizes) if size > 1]
    if not several:
        return 0
    grid = ids.reshape(sizes)
    for k in several:
        if (grid == grid.take([0], axis=k)).all():
            continue
        if all((grid == grid.take([0], axis=other)).all() for other in several if other != k):
            return k
    last = block.before[-1] == rank - 1 and len(block.before) == 1
    return several[1] if last and len(several) > 2 else several[0]


def _shuffle(t: Tracker, first: Node) -> Shuffle | None:
    """The Shuffle that begins at a Reshape, where Reshape, Transpose, Reshape only reorder one axis."""
    middle = _sole_user(first, "Transpose")
    last = None if middle is None else _sole_user(middle, "Reshape")
    if middle is None or last is None:
        return None
    x = first.inputs[0]
    assert x is not None
    if any(isinstance(axis, Folded) for axis in t.raw_axes(x)):
        return None
    axes = t.axes(x)
    cuttable = [axis for axis, ids in enumerate(axes) if ids is not None]
    if len(cuttable) != 1 or len(t.raw_axes(last.output)) != len(axes):
        return None
    (axis,) = cuttable
    split = align(t.sizes(x), RequestedShape.of(t, first).sizes(t, x, first.output))
    factors = next((b for b in split if b.before == (axis,)), None)
    if factors is None or len(factors.after) < 2 or any(len(b.after) != 1 for b in split if b is not factors):
        return None
    perm = _perm(middle, len(t.raw_axes(first.output)))
    sizes = [_int(t.size(first.output, k)) for k in factors.after]
    order = [k for k in perm if k in factors.after]
    place = perm.index(order[0])
    if perm[place : place + len(order)] != tuple(order):
        return None
    rest = [k for k in perm if k not in factors.after]
    if rest != sorted(rest) or place != axis or t.size(last.output, axis) != len(axes[axis]):  # type: ignore[arg-type]
        return None
    merged = align(
        [t.size(first.output, k) for k in perm], RequestedShape.of(t, last).sizes(t, middle.output, last.output)
    )
    if not any(b.before == tuple(range(place, place + len(order))) and b.after == (axis,) for b in merged):
        return None
    index = np.arange(math.prod(sizes)).reshape(sizes)
    index = index.transpose([factors.after.index(k) for k in order]).reshape(-1)
    ids = axes[axis]
    assert ids is not None
    return Shuffle((first, middle, last), axis, index, ids)


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
    merged: list[Axis] = []
    for part in (range(axis), range(axis, len(axes))):
        factors = [(t.size(x, k), axes[k]) for k in part]
        merged.append(_merge(factors) if any(ids is not None for _, ids in factors) else None)
    t.set(node.output, merged)


@transfer("Squeeze", "Unsqueeze")
def squeeze(t: Tracker, node: Node) -> None:
    """Axes of one position are dropped, or inserted."""
    axes = t.axes(node.inputs[0])
    given = node.attrs.get("axes") if version_for(node) < 13 else integers(node.input(1))
    if given is None:
        raise Declined("its axes are not given")
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
    """Axes of one position are repeated; a constant size of any other axis is corrected.

    If the value has no channels, any of the repetitions is removable.
    """
    x = node.inputs[0]
    assert x is not None
    axes = t.axes(x)
    if all(ids is None for ids in axes):
        numbers = numbers_of(t, node.input(1), node, 1)
        if numbers is None or len(numbers) < len(axes):
            _fix_shape(t, node)
            return
        sizes: list[Dim] = [*(1 for _ in range(len(numbers) - len(axes))), *(t.size(x, k) for k in range(len(axes)))]
        repeated = [filled(t, n) if size == 1 else None for n, size in zip(numbers, sizes)]
        for number, size in zip(numbers, sizes):
            if size != 1:
                t.fix_number(number, "a size that is read is that of an axis which stays")
        t.set(node.output, repeated)
        return
    shape = RequestedShape.of(t, node)
    rank = max(len(axes), shape.count)
    expanded: Axes = (*(None for _ in range(rank - len(axes))), *axes)
    for k, ids in enumerate(expanded):
        own = k - (rank - shape.count)
        if own >= 0 and shape.literal(own) != 1:
            reconcile(t, shape.numbers[own], ids, False)
    t.set(node.output, expanded)


@transfer("ConstantOfShape")
def constant_of_shape(t: Tracker, node: Node) -> None:
    """One value repeated along every axis."""
    numbers = numbers_of(t, node.input(0), node, 0)
    if numbers is None:
        raise Declined("its shape is computed")
    t.set(node.output, [filled(t, number) for number in numbers])


@transfer("DepthToSpace", "SpaceToDepth")
def blocks(t: Tracker, node: Node) -> None:
    """A channel of the image corresponds to b² channels of the stack, which are removed together."""
    axes = t.axes(node.inputs[0])
    t.fix_all(axes[2:], f"{where(node)} mixes it")
    ids, square = axes[1], int(attr(node, "blocksize", 1)) ** 2
    if ids is None:
        return
    if node.op == "SpaceToDepth":
        t.set(node.output, (axes[0], np.tile(ids, square), None, None))
        return
    column_row = attr(node, "mode", "DCR") == "CRD"
    united = ids.reshape(-1, square) if column_row else ids.reshape(square, -1).T
    for column in range(1, square):
        t.elements.unite(united[:, 0], united[:, column])
    t.set(node.output, (axes[0], np.ascontiguousarray(united[:, 0]), None, None))
