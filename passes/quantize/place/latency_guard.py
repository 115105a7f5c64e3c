"""The latency guard: units run on integers where that gains time on this machine; the result is never slower.

Stored weights are timed, too, but their objective is size: where slower, they stay, and the report says so."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from ....ir import Model
from ....kernels import select_level
from ....kernels.core.object_cache import generation
from ....machine.measurements import Measurements
from ....measure import Timing, compare_latency, ort_session, own_clock
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit, useful
from ..emit.at_load import converts_at_load
from ..emit.qdq import build
from .cost_model import measure_costs, structure_digest
from .min_cut import cheapest

GAIN = 1.02
"""The ratio from which a candidate counts as faster: two standard errors of a ratio that is `CERTAIN`."""
SECONDS, ATTEMPTS = 0.6, 3
"""Seconds for which each candidate is timed, and the most attempts, each twice as long, until the ratios are certain:
4.2 s at most. `python -m tests.bench.zoo_int8` prints the ratios of fresh runs beside the remembered ones."""
CERTAIN = 0.01
"""The largest standard error of a cached ratio: verdicts disturbed by the machine's other work are not cached."""


@dataclass(frozen=True, slots=True)
class TimedAssignment:
    """The fastest of the sufficiently fast assignments, None for the float model, and its speed relative to the float
    model."""

    assignment: Assignment | None
    speedup: float


def min_cut_candidates(calibrated: CalibratedModel, assignment: Assignment) -> list[Assignment]:
    """Assignments worth timing: the units that the minimum cut of measured times leaves on integers, then all units."""
    costs = measure_costs(calibrated.assignment, calibrated.feed, calibrated.shapes)
    chosen = useful(cheapest(assignment.units, costs))
    if not chosen or chosen == assignment.units:
        return [assignment]
    return [assignment.with_units(chosen), assignment]


def needed_gain(mode: str, only_tables: bool = False) -> float:
    """The ratio from which a model counts as fast enough. Stored weights serve size, at any speed; so do embedding
    tables, but these must not slow the model down."""
    if mode == "weights":
        return 0.0
    return 2.0 - GAIN if only_tables else GAIN


def most_gain(calibrated: CalibratedModel, units: Set[Unit]) -> float:
    """The upper bound on the speed from these units on integers: Amdahl's law, if they took no time at all."""
    costs = measure_costs(calibrated.assignment, calibrated.feed, calibrated.shapes)
    rest = sum(seconds for unit, seconds in costs.as_float.items() if unit not in units)
    return math.inf if rest == 0 else sum(costs.as_float.values()) / rest


def model_times() -> Measurements:
    """Cached seconds of quantized models and of their float models, by `_key`; one table per kernel instruction set."""
    return Measurements("models", (select_level().name, generation()))


def fastest(
    model: Model, assignments: list[Assignment], feed: Mapping[str, Any], target: str, seconds: float = SECONDS
) -> TimedAssignment:
    """The fastest of the float model and the assignments, timed interleaved in the target runtime on one thread.

    Times are cached for models of the same structure on this machine, so that the same input gives the same result; on
    a machine too busy for certainty, the verdict holds for this call alone, and a candidate must be faster by two of
    its own standard errors.
    """
    errors: dict[str, float] = {}
    keys = [_key(assignment, feed, target) for assignment in assignments]
    measured = model_times().load()
    if any(key not in measured for key in keys):
        sessions = {"float": timing_session(model, target)}
        sessions.update({key: timing_session(build(assignment), target) for key, assignment in zip(keys, assignments)})
        told_only = all(assignment.options.mode == "weights" for assignment in assignments)
        timings, certain = stable_timings(sessions, feed, seconds, 1 if told_only else ATTEMPTS)
        measured = {t.label: (t.median, t.median * t.ratio) for t in timings}
        errors = {t.label: t.error for t in timings}
        if certain:
            model_times().add(measured)
    best = TimedAssignment(None, 1.0)
    for key, assignment in zip(keys, assignments):
        ratio = measured[key][1] / measured[key][0]
        needed = needed_gain(assignment.options.mode, assignment.only_tables)
        if needed == GAIN:
            needed = max(needed, 1 + 2 * errors.get(key, 0.0))
        if ratio >= needed and (best.assignment is None or ratio > best.speedup):
            best = TimedAssignment(assignment, ratio)
    return best


def stable_timings(
    sessions: Mapping[str, Any], feed: Mapping[str, Any], seconds: float = SECONDS, attempts: int = ATTEMPTS
) -> tuple[list[Timing], bool]:
    """Timings of all sessions relative to the first, repeated while uncertain; and whether they are certain."""
    for attempt in range(attempts):
        timings = compare_latency(sessions, feed, seconds=seconds * 2**attempt, clock=own_clock())[1:]
        if all(t.error <= CERTAIN or abs(t.ratio - GAIN) > 4 * t.error * t.ratio for t in timings):
            return timings, True
    return timings, False


def _key(assignment: Assignment, feed: Mapping[str, Any], target: str) -> str:
    """The key of an assignment's time: the model's structure, and the units on integers."""
    order, options = assignment.order, assignment.options
    codes = {u: assignment.codes[u.node] for u in assignment.units if u.linear is not None}
    loaded = {u for u in codes if options.mode == "weights" and converts_at_load(u, assignment)}
    bits = sorted(
        (order[u], of.bits, of.block or 0, *(["stored"] * of.is_stored), *(["at load"] * (u in loaded)))
        for u, of in codes.items()
    )
    placed = sorted(order[u] for u in assignment.units)
    kind = f"{options.format} {options.activation_type}{' by channel' * bool(assignment.channels)}"
    text = f"{structure_digest(assignment, feed)} {target} {placed} {bits} {kind}"
    return f"whole:{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def timing_session(model: Model, target: str) -> Any:
    """A session on one thread in the target runtime."""
    if target == "graphopt":
        from ....runtime import session_of

        return session_of(model, threads=1)
    return ort_session(model)
