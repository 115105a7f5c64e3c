"""Rearranging elements: a dense tensor read with strides in any order of its axes."""

# mypy: ignore-errors

from __future__ import annotations

BLOCK = 32  # elements a side of a tile: its rows and columns fit the first-level cache together


def permute(lo, hi, worker, x, y, n1, n2, n3, s0, s1, s2, s3):
    """y [tiles, n1, n2, n3] = x read with strides s0 … s3 in elements; a tile is one index of the first axis.

    Where the last axis is strided and the one before is dense, blocks keep both sides in cache.
    """
    for i in range(lo, hi):
        for j in range(n1):
            source = i * s0 + j * s1
            target = (i * n1 + j) * n2 * n3
            if s3 == 1:
                for k in range(n2):
                    for m in range(n3):
                        y[target + k * n3 + m] = x[source + k * s2 + m]
                continue
            for first in range(0, n2, BLOCK):
                for begin in range(0, n3, BLOCK):
                    for k in range(first, min(first + BLOCK, n2)):
                        for m in range(begin, min(begin + BLOCK, n3)):
                            y[target + k * n3 + m] = x[source + k * s2 + m * s3]
