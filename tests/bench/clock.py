"""A loop whose every iteration takes two cycles: the measure of the core's frequency."""

# mypy: ignore-errors

from __future__ import annotations


def chain(lo, hi, worker, out, count):
    """count dependent pairs of one-cycle operations that no compiler can shorten."""
    x = out[0] + 1
    for _ in range(count):
        x = (x << 1) ^ (x >> 63)
    out[0] = x
