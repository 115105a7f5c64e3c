"""One arena for all buffers of an executable: greedy best-fit coloring of their live intervals."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_LINE = 64  # bytes of a cache line


@dataclass(slots=True)
class Interval:
    """A buffer of `size` bytes that is written first at step `first` and read last at step `last`."""

    size: int
    first: int
    last: int


def assign(intervals: Sequence[Interval], slack: int) -> tuple[list[int], int]:
    """Offsets on cache lines, and the arena's size; buffers alive together do not overlap, `slack` bytes included.
    Empty buffers have the offset 0.

    Largest buffer first, each into the smallest gap that fits between buffers alive at the same time (Pisarchyk and
    Lee, 2020, greedy by size).
    """
    offsets = [0] * len(intervals)
    placed: list[tuple[int, int, Interval]] = []  # begin, end, interval, by begin
    begins: list[int] = []
    total = 0
    for index in sorted(range(len(intervals)), key=lambda i: -intervals[i].size):
        own = intervals[index]
        if own.size == 0:
            continue
        need = -(-(own.size + slack) // _LINE) * _LINE
        best, best_gap, reached = -1, 0, 0
        for begin, end, other in placed:
            if other.last < own.first or own.last < other.first:
                continue
            gap = begin - reached
            if gap >= need and (best < 0 or gap < best_gap):
                best, best_gap = reached, gap
            reached = max(reached, end)
        offsets[index] = best if best >= 0 else reached
        at = bisect_left(begins, offsets[index])
        begins.insert(at, offsets[index])
        placed.insert(at, (offsets[index], offsets[index] + need, own))
        total = max(total, offsets[index] + need)
    return offsets, total
