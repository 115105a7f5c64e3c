"""Rearranging elements: a dense tensor read with strides in any order of its axes."""

# mypy: ignore-errors

from __future__ import annotations

BLOCK = 32  # elements a side of a tile: its rows and columns fit the first-level cache together


def permute(lo, hi, worker, x, y, n1, n2, n3, n4, s0, s1, s2, s3, s4):
    """y [tiles, n1, n2, n3, n4] = x read with strides s0 … s4 in elements; a tile is one index of the first axis.

    Where the last axis is strided and the one before is dense, blocks keep both sides in cache.
    """
    for i in range(lo, hi):
        for j in range(n1 * n2):
            outer = j // n2
            source = i * s0 + outer * s1 + (j - outer * n2) * s2
            target = (i * n1 * n2 + j) * n3 * n4
            if s4 == 1:
                for k in range(n3):
                    for m in range(n4):
                        y[target + k * n4 + m] = x[source + k * s3 + m]
                continue
            for first in range(0, n3, BLOCK):
                for begin in range(0, n4, BLOCK):
                    for k in range(first, min(first + BLOCK, n3)):
                        for m in range(begin, min(begin + BLOCK, n4)):
                            y[target + k * n4 + m] = x[source + k * s3 + m * s4]
