"""The latency guard: units run on integers where that gains time on this machine; the result is never slower.

Stored weights are timed, too, but their objective is size: where slower, they stay, and the report says so."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....compress.speed import ATTEMPTS, GAIN, SECONDS, is_clear, kept_speeds, stable_timings
from ....ir import Model
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit, useful
from ..emit.at_load import converts_at_load
from ..emit.qdq import build
from .cost_model import assignment_digest, measure_costs
from .min_cut import cheapest

PREDICTED_GAIN = 1.2
"""The ratio from which a candidate counts as faster by prediction, where no measured time was clear. Of 47 int8 models
in `python -m tests.bench.predicted_gain` nine are predicted above it and one of them is slower when measured, an
EfficientNet with every unit on integers, where the minimum cut leaves most of them float; above 1.1 three are."""


@dataclass(frozen=True, slots=True)
class TimedAssignment:
    """The fastest of the sufficiently fast assignments, None for the float model, and its speed relative to the float
    model, measured or predicted."""

    assignment: Assignment | None
    speedup: float
    is_predicted: bool = False


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


def fastest(
    model: Model, assignments: list[Assignment], feed: Mapping[str, Any], target: str, seconds: float = SECONDS
) -> TimedAssignment:
    """The fastest of the float model and the assignments in the target runtime on one thread; of assignments alike to
    within `GAIN`, the first.

    Times are kept for models of the same structure on this machine; where none was clear, the prediction is kept, and a
    candidate must be faster by `PREDICTED_GAIN`.
    """
    keys = [_key(assignment, feed, target) for assignment in assignments]
    told_only = all(assignment.options.mode == "weights" for assignment in assignments)
    speeds = kept_speeds(
        model, {key: partial(build, assignment) for key, assignment in zip(keys, assignments)}, feed, target,
        lambda sessions: stable_timings(sessions, feed, seconds, 1 if told_only else ATTEMPTS), is_clear,
    )  # fmt: skip
    best = TimedAssignment(None, 1.0)
    for key, assignment in zip(keys, assignments):
        speed, needed = speeds[key], needed_gain(assignment.options.mode, assignment.only_tables)
        if speed.is_predicted and needed == GAIN:
            needed = PREDICTED_GAIN
        if speed.ratio >= needed and (best.assignment is None or speed.ratio > GAIN * best.speedup):
            best = TimedAssignment(assignment, speed.ratio, speed.is_predicted)
    return best


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
    text = f"{assignment_digest(assignment, feed)} {target} {placed} {bits} {kind}"
    return f"whole:{hashlib.sha256(text.encode()).hexdigest()[:24]}"
