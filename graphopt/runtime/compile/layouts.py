"""Layouts: a tensor's memory order as a permutation of its logical axes, outermost first. Transposing is then free.

`order[i]` is the logical axis at physical place i: (0, 1, 2, 3) is as ONNX writes it, (0, 2, 3, 1) is NHWC. Axes of
size 1 may stand anywhere.
"""

from __future__ import annotations

from math import prod

from ..lower.traits import Shape

Order = tuple[int, ...]


def natural(rank: int) -> Order:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """Batch, spatial axes, channels."""
    return (0, *range(2, rank), 1) if rank > 2 else natural(rank)


def axis_inside(rank: int, axis: int) -> Order:
    """The axis innermost, the others in ONNX's order."""
    return (*(a for a in range(rank) if a != axis % rank), axis % rank)


def physical_shape(shape: Shape, order: Order) -> Shape:
    """The sizes of the axes in their memory order."""
    return tuple(shape[axis] for axis in order)


def same_place(shape: Shape, a: Order, b: Order) -> bool:
    """Whether both orders put every element at the same offset."""
    return [axis for axis in a if shape[axis] != 1] == [axis for axis in b if shape[axis] != 1]


def transposed(order: Order, permutation: Order) -> Order:
    """The order of the transposed tensor over the same memory."""
    return tuple(permutation.index(axis) for axis in order)


def reshaped(shape: Shape, order: Order, target: Shape) -> Order | None:
    """The order of a reshaped tensor over the same memory; None where elements would have to move.

    Both shapes are cut into the smallest blocks of axes with equal products. A block that is one axis before may be
    split; a block whose axes are neighbors in ascending order may be merged, and keeps its place as a whole.
    """
    if prod(shape) == 0 or prod(target) == 0:
        return natural(len(target))
    blocks = _blocks(shape, target)
    home = {axis: index for index, (before, _) in enumerate(blocks) for axis in before}
    sequence: list[int] = []
    places: dict[int, list[int]] = {}
    for axis in order:
        if shape[axis] == 1:
            continue
        block = home[axis]
        if block in places and sequence[-1] != block:
            return None
        if block not in places:
            sequence.append(block)
        places.setdefault(block, []).append(axis)
    if any(axes != sorted(axes) for axes in places.values()):
        return None
    axes = [axis for block in sequence for axis in blocks[block][1]]
    rest = [axis for axis in range(len(target)) if axis not in axes]
    return (*rest, *axes) if rest else tuple(axes)


def _blocks(shape: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(target):
        before, after = [], []
        p = q = 1
        if i < len(shape):
            before.append(i)
            p, i = shape[i], i + 1
        if j < len(target):
            after.append(j)
            q, j = target[j], j + 1
        while p != q:
            if p < q:
                before.append(i)
                p, i = p * shape[i], i + 1
            else:
                after.append(j)
                q, j = q * target[j], j + 1
        blocks.append((before, after))
    return blocks
