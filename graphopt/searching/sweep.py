"""The plans to try next: those that widen the predicted front most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .plan import Plan
from .point import Point, hypervolume
from .tables import Tables

WORST, BEST = 10.0, 60.0
"""SQNR in dB of the worst acceptable result, with noise at a tenth of the signal, and of the best useful one. A metric
refines both, see `Scale.of`."""
LOSS = 0.1
"""The largest relative loss of a metric at which a point's SQNR still counts as acceptable. A choice."""
APART = 5.0
"""The least distance of a scale's ends, in dB."""
SLACK = 1.05
"""The latency and size, as shares of the original's, up to which a point can widen the front."""
TRIES = 3
"""Integer programs solved per selected plan. Each costs about a second, less than the build of a model."""
DOUBTS = (0.0, 3.0, 6.0)
"""dB of assumed underprediction, tried in order until a plan widens the front: errors do not add up exactly, and a
search that trusted predictions ended after 25 of silero's trials, where 116 found a third more."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of objectives: SQNR between two ends, and the original's size."""

    low: float
    high: float
    size: float

    @classmethod
    def of(cls, history: Sequence[Point]) -> Scale:
        """The scale of a search; with a metric, SQNR ranges from nearly all of the metric lost to nothing lost."""
        original, low, high = history[0], WORST, BEST
        scored = [p for p in history[1:] if not p.why and p.metric is not None and math.isfinite(p.sqnr_db)]
        if original.metric is not None and scored:
            spare = max(original.metric_error or 0.0, 1e-9)
            lost = {p.sqnr_db: original.metric - (p.metric or 0.0) for p in scored}
            low = min([WORST, *(decibels for decibels, loss in lost.items() if loss <= LOSS * abs(original.metric))])
            hurt = [decibels for decibels, loss in lost.items() if loss > spare]
            high = max(low + APART, max(hurt) + APART if hurt else min(lost))
        return cls(low, min(high, BEST), float(original.size or 1))

    def values(self, latency: float | None, decibels: float, size: float) -> tuple[float, float, float]:
        """Latency, lost quality and size relative to the scale, to minimize."""
        left = (min(decibels, self.high) - self.low) / (self.high - self.low)
        return (math.inf if latency is None else latency), 1.0 - left, size / self.size


def next_plans(
    tables: Tables, tried: Sequence[Plan], history: Sequence[Point], objectives: Sequence[str], count: int, turn: int
) -> list[Plan]:
    """At most `count` untried plans; none where no new plan is predicted to widen the front of `history`, even if
    better by `DOUBTS`. turn: the number of programs solved in earlier calls.

    Candidates minimize latency and size, in varying weights, at a noise, or noise at a latency, at points that fill the
    ranges evenly. Selected are those that most increase the volume dominated by the front. Models slower than the
    original are not tried where time is an objective: the uniform models with stored weights already are.
    """
    scale = Scale.of(history)
    axes = [name for name in ("latency", "quality", "size") if name in objectives]
    places = range(turn, turn + TRIES * count)
    solved = dict.fromkeys(plan for place in places if (plan := _solved(tables, scale, axes, place)) is not None)
    new = [plan for plan in solved if plan not in tried]
    if not new:  # the optima are known: try plans near them
        others = (_solved(tables, scale, axes, place, tried) for place in places[:TRIES])
        new = [plan for plan in dict.fromkeys(others) if plan is not None]
    known = [scale.values(p.latency, p.sqnr_db, p.size) for p in history if not p.why]
    predicted = {plan: tables.predict(plan) for plan in new}
    ways = (_widest(known, {p: _values(scale, predicted[p], doubt) for p in new}, axes, count) for doubt in DOUBTS)
    return next((plans for plans in ways if plans), [])


def _solved(tables: Tables, scale: Scale, axes: Sequence[str], place: int, banned: Sequence[Plan] = ()) -> Plan | None:
    """The plan of one sample point: every third minimizes noise at a latency, or at a size."""
    whole = tables.predict(tables.start)
    decibels = scale.low + (scale.high - scale.low) * halton(place + 1, 2)
    noise = 10.0 ** (-decibels / 10.0)
    slowest = max(1.0, whole["latency"])
    if place % 3 == 2:
        axis = "latency" if "latency" in axes else "size"
        least = tables.solve(noise=10.0 ** (-scale.low / 10.0), minimise=axis)
        low, high = (0.0 if least is None else least[1][axis]), (slowest if axis == "latency" else scale.size)
        at = low + (high - low) * halton(place // 3 + 1, 2)
        limit = {axis: at * (1 + 1e-6)}
        found = tables.solve(latency=limit.get("latency"), size=limit.get("size"), minimise="noise", banned=banned)
        return None if found is None or found[1]["noise"] > 10.0 ** (-scale.low / 10.0) else found[0]
    weight = halton(place + 1, 3) if len(axes) == 3 else float("latency" in axes)
    goal = {"latency": weight, "size": (1.0 - weight) / scale.size}
    found = tables.solve(noise=noise, minimise=goal, banned=banned)
    return None if found is None or ("latency" in axes and found[1]["latency"] > SLACK * slowest) else found[0]


def _values(scale: Scale, predicted: Mapping[str, float], doubt: float) -> tuple[float, float, float]:
    decibels = doubt - 10.0 * math.log10(max(predicted["noise"], 1e-20))
    return scale.values(predicted["latency"], decibels, predicted["size"])


def _widest(
    known: Sequence[tuple[float, ...]], found: Mapping[Plan, tuple[float, ...]], axes: Sequence[str], count: int
) -> list[Plan]:
    """The plans that widen the front most, selected greedily; none that does not widen it."""
    kept = [at for at, name in enumerate(("latency", "quality", "size")) if name in axes]
    reference = [(SLACK, 1.0, SLACK)[at] for at in kept]
    front = [[values[at] for at in kept] for values in known]
    left = {plan: [values[at] for at in kept] for plan, values in found.items()}
    volume, taken = hypervolume(front, reference), list[Plan]()
    while left and len(taken) < count:
        volumes = {plan: hypervolume([*front, values], reference) for plan, values in left.items()}
        plan = max(volumes, key=volumes.__getitem__)
        if volumes[plan] <= volume:
            break
        front, volume = [*front, left.pop(plan)], volumes[plan]
        taken.append(plan)
    return taken


def halton(number: int, base: int) -> float:
    """Halton's sequence: in base 2, from number 1 on, 1/2, 1/4, 3/4, 1/8, 5/8, …"""
    value, part = 0.0, 1.0 / base
    while number:
        value += part * (number % base)
        number //= base
        part /= base
    return value
