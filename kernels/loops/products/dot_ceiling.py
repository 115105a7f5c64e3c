"""The loop of the dot-product benchmark."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.loops.core.memory import call2


def peak(lo, hi, worker, function, operands, count):
    """One call per tile."""
    for _ in range(lo, hi):
        call2(function, operands, count)
