"""The axes of a tensor that a Reshape merges and splits, derived from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim


@dataclass(frozen=True, slots=True)
class Block:
    """Axes `before` become axes `after`, in row-major order; `known`: whether the sizes determine how.

    solved: an axis of `after` whose size follows from the others', with that size.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    known: bool = True
    solved: tuple[int, int] | None = None


def align(a: Sequence[Dim], b: Sequence[Dim]) -> list[Block]:
    """Blocks of axes with equal products, in order; all axes between the first and last unknown size are one block."""
    head = _blocks(list(a), list(b))
    i = sum(len(block.before) for block in head)
    j = sum(len(block.after) for block in head)
    if i == len(a) and j == len(b):
        return head
    tail = _blocks(list(a[i:])[::-1], list(b[j:])[::-1])
    m = len(a) - sum(len(block.before) for block in tail)
    n = len(b) - sum(len(block.after) for block in tail)
    back = [
        Block(
            tuple(len(a) - 1 - axis for axis in reversed(block.before)),
            tuple(len(b) - 1 - axis for axis in reversed(block.after)),
        )
        for block in reversed(tail)
    ]
    between = [_between(a, b, range(i, m), range(j, n))] if i < m or j < n else []
    return [*head, *between, *back]


def _between(a: Sequence[Dim], b: Sequence[Dim], before: range, after: range) -> Block:
    """The block of axes with unknown sizes: merged if it becomes one axis; one unknown size may be solved."""
    if len(after) == 1:
        return Block(tuple(before), tuple(after))
    whole = [a[axis] for axis in before]
    open_axes = [axis for axis in after if not isinstance(b[axis], int)]
    parts = [b[axis] for axis in after if isinstance(b[axis], int)]
    if len(open_axes) != 1 or not all(isinstance(size, int) for size in whole) or 0 in parts:
        return Block(tuple(before), tuple(after), False)
    size, rest = divmod(math.prod(whole), math.prod(parts))  # type: ignore[arg-type]
    return Block(tuple(before), tuple(after), rest == 0, (open_axes[0], size))


def _blocks(a: list[Dim], b: list[Dim]) -> list[Block]:
    """Blocks from the left, as far as sizes determine them."""
    blocks: list[Block] = []
    i = j = 0
    while i < len(a) and j < len(b):
        ends = _block(a, b, i, j)
        if ends is None:
            return blocks
        blocks.append(Block(tuple(range(i, ends[0])), tuple(range(j, ends[1]))))
        i, j = ends
    rest = (*range(i, len(a)), *range(j, len(b)))
    if rest and blocks and all(a[k] == 1 for k in range(i, len(a))) and all(b[k] == 1 for k in range(j, len(b))):
        last = blocks.pop()
        blocks.append(Block((*last.before, *range(i, len(a))), (*last.after, *range(j, len(b)))))
    return blocks


def _block(a: list[Dim], b: list[Dim], i: int, j: int) -> tuple[int, int] | None:
    """The ends of the block that starts at axes i and j."""
    left, right = a[i], b[j]
    i, j = i + 1, j + 1
    if left == right and left is not None:
        return i, j
    while True:
        if not isinstance(left, int) or not isinstance(right, int) or left == 0 or right == 0:
            return None
        if left == right:
            return i, j
        if left < right:
            if i == len(a) or not isinstance(a[i], int):
                return None
            left, i = left * a[i], i + 1  # type: ignore[operator]
        else:
            if j == len(b) or not isinstance(b[j], int):
                return None
            right, j = right * b[j], j + 1  # type: ignore[operator]
