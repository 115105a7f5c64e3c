"""The plans to try next: points of the predicted front, spread over latency and size."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Plan
from .tables import Tables

WORST = 10.0**-1.5
"""Noise, as a share of the signal's power, from which on no plan is tried: 15 dB, the floor of `graphopt.Quantize`."""
TRIES = 12
"""Places of the front that are solved for a plan that is new, before the search counts as done. Each costs an integer
program, less than the build of a model."""


def next_plans(tables: Tables, tried: Sequence[Plan], objectives: Sequence[str], count: int, turn: int) -> list[Plan]:
    """At most `count` plans that were not tried; none where no new one is predicted. turn: how many were asked before.

    In turn the least noise at a latency, and at a size, at places that halve the gaps between those before; where the
    best plan there was tried already, the best that was not. A smaller file that is predicted to be slower than the
    model as it is, is not tried where time is an objective: models in which all layers are stored are there already.
    """
    axes = [name for name in ("latency", "size") if name in objectives]
    ends = {axis: _ends(tables, axis) for axis in axes}
    found: list[Plan] = []
    for place in range(turn, turn + TRIES + count):
        axis = axes[place % len(axes)]
        low, high = ends[axis]
        at = low + (high - low) * _halving(1 + place // len(axes))
        limit = {"latency": ends["latency"][1], axis: at} if len(axes) == 2 else {axis: at}
        for banned in ((), (*tried, *found)):
            solved = tables.solve(
                latency=_loose(limit.get("latency")), size=_loose(limit.get("size")), minimise="noise", banned=banned
            )
            if solved is None or solved[1]["noise"] > WORST:
                break
            if solved[0] not in tried and solved[0] not in found:
                found.append(solved[0])
                break
        if len(found) == count:
            break
    return found


def _loose(limit: float | None) -> float | None:
    """A limit with room for rounding."""
    return None if limit is None else limit * (1 + 1e-6)


def _ends(tables: Tables, axis: str) -> tuple[float, float]:
    """The least of a cost that is predicted within `WORST`, and that of the model as it is."""
    whole = tables.predict(tables.start)[axis]
    solved = tables.solve(noise=WORST, minimise=axis)
    return (whole if solved is None else min(whole, solved[1][axis])), whole


def _halving(number: int) -> float:
    """1/2, 1/4, 3/4, 1/8, 5/8, …: the sequence of van der Corput, from 1 on."""
    value, part = 0.0, 0.5
    while number:
        value += part * (number & 1)
        number >>= 1
        part /= 2
    return value
