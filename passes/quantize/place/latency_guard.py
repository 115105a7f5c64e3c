"""The speed guard: units run on integers where that gains, measured here, and the result is never slower."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....ir import Model
from ....kernels import select_level
from ....kernels.objects import generation
from ....machine.measurements import Measurements
from ....measure import Timing, compare_latency, ort_session, own_clock
from ..candidates.assignment import Plan
from ..candidates.calibrated_model import Study
from ..candidates.units import useful
from ..emit.qdq import build
from .cost_model import measure_costs, structure_digest
from .min_cut import cheapest

GAIN = 1.02
"""A candidate counts as faster from this ratio on; below lies what repeated runs differ by."""
SECONDS, ATTEMPTS = 0.6, 3
"""How long each candidate is timed, and how often at most, twice as long each time, until the ratios are certain."""
CERTAIN = 0.01
"""The standard error of a ratio that is remembered: a verdict that the machine's other work made is not."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A plan, and how many times as fast as the float model it ran. plan is None for the float model."""

    plan: Plan | None
    ratio: float


def place(studied: Study, plan: Plan) -> list[Plan]:
    """Plans worth timing: all units, and those that the minimum cut of measured times leaves on integers."""
    costs = measure_costs(studied.plan, studied.feed, studied.shapes)
    chosen = useful(cheapest(plan.units, costs))
    plans = [plan]
    if chosen and chosen != plan.units:
        plans.insert(0, plan.with_units(chosen))
    return plans


def model_times() -> Measurements:
    """Seconds of quantized models and of their float models, by `_key`."""
    return Measurements("models", (select_level().name, generation()))


def fastest(model: Model, plans: list[Plan], feed: Mapping[str, Any], target: str, seconds: float = SECONDS) -> Pace:
    """The fastest of the float model and the plans, timed interleaved in the target runtime on one thread.

    Remembered for models of the same shapes on this machine, so that the same input gives the same result; unless the
    machine is too busy to be certain, then the verdict holds for this once.
    """
    keys = [_key(plan, feed, target) for plan in plans]
    measured = model_times().load()
    if any(key not in measured for key in keys):
        sessions = {"float": runner(model, target)}
        sessions.update({key: runner(build(plan), target) for key, plan in zip(keys, plans)})
        timings, certain = raced(sessions, feed, seconds)
        measured = {t.label: (t.median, t.median * t.ratio) for t in timings}
        if certain:
            model_times().add(measured)
    best = Pace(None, 1.0)
    for key, plan in zip(keys, plans):
        ratio = measured[key][1] / measured[key][0]
        if ratio >= (GAIN if plan.options.mode != "weights" else 1.0) and ratio > best.ratio:
            best = Pace(plan, ratio)
    return best


def raced(sessions: Mapping[str, Any], feed: Mapping[str, Any], seconds: float = SECONDS) -> tuple[list[Timing], bool]:
    """Timings of all sessions but the first beside it, taken anew while uncertain; and whether they are certain."""
    for attempt in range(ATTEMPTS):
        timings = compare_latency(sessions, feed, seconds=seconds * 2**attempt, clock=own_clock())[1:]
        if all(t.error <= CERTAIN or abs(t.ratio - GAIN) > 4 * t.error * t.ratio for t in timings):
            return timings, True
    return timings, False


def _key(plan: Plan, feed: Mapping[str, Any], target: str) -> str:
    """What the time of a plan depends on: the model's structure, and what is placed on integers."""
    order, options = plan.order, plan.options
    bits = sorted((order[u], plan.codes[u.node].bits) for u in plan.units if u.linear is not None)
    placed = sorted(order[u] for u in plan.units)
    kind = f"{options.format} {options.activation_type}{' by channel' * bool(plan.channels)}"
    text = f"{structure_digest(plan, feed)} {target} {placed} {bits} {kind}"
    return f"whole:{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def runner(model: Model, target: str) -> Any:
    """A session on one thread in the target runtime."""
    if target == "graphopt":
        from ....runtime import session_of

        return session_of(model, threads=1)
    return ort_session(model)
