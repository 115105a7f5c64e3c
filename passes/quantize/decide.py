"""Choose precision per unit: minimum cut, accuracy guard, cut anew, time."""

from __future__ import annotations

from dataclasses import dataclass

from ...compress.context import StageContext
from ...ir import Model
from .candidates.assignment import Plan
from .candidates.calibrated_model import Study
from .candidates.units import Unit, useful
from .emit.qdq import build
from .place.accuracy_guard import Guarded, guard, judge_for, limit_of, measure_alone, unchanged
from .place.bias_correction import with_means
from .place.latency_guard import fastest, place
from .place.mixed_precision import more_faithful
from .place.per_channel_activations import with_channels


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of the guards: the plan (None: the model stays float), the speed, and the words for the report."""

    plan: Plan | None
    guarded: Guarded | None
    ratio: float | None
    text: str


def decide(model: Model, studied: Study, context: StageContext) -> tuple[Study, Decision]:
    """Place for speed, guard accuracy, then place what is left anew and time the whole; and the study that is of.

    Where it takes layers back, or leaves the model float, with one scale a tensor, scales a channel are tried first.
    """
    candidates = _candidates(studied, context)
    good = unchanged(candidates[0], judge_for(studied, context))
    if good is not None:
        return studied, _timed(model, studied, candidates, good, context)
    even = with_channels(studied, context)
    if even is not None:
        even = with_means(even, context)
        placed = _candidates(even, context)
        was, now = (context.quality.fidelity(build(plans[0])).sqnr_db for plans in (candidates, placed))
        if now > was:
            good = unchanged(placed[0], judge_for(even, context)) or guard(even, placed[0], context)
            decision = _timed(model, even, placed, good, context)
            if decision.plan is not None:
                return even, decision
    return studied, _timed(model, studied, candidates, guard(studied, candidates[0], context), context)


def _timed(model: Model, studied: Study, candidates: list[Plan], guarded: Guarded, context: StageContext) -> Decision:
    """What is good enough, if it is also fast."""
    if studied.options.sensitivity:
        layers = [unit for unit, _ in studied.units.linear() if unit in studied.plan.units]
        measure_alone(studied, studied.plan, context, layers)
    if not guarded.plan.units:
        return Decision(None, guarded, None, f"left float: {guarded.verdict}, {limit_of(studied.options, context)}")
    if not studied.options.speed:
        return Decision(guarded.plan, guarded, None, guarded.verdict)
    finals = _spared(studied, guarded, context)
    pace = fastest(model, list(finals), studied.feed, context.target)
    if pace.plan is None:
        finals = {guarded.plan: guarded, **_others(studied, guarded, candidates[1:], context)}
        pace = fastest(model, list(finals), studied.feed, context.target)
    if pace.plan is None:
        return Decision(None, guarded, 1.0, "left float: integers are not faster on this machine")
    found = finals[pace.plan]
    return Decision(pace.plan, found, pace.ratio, f"{pace.ratio:.2f}× as fast; {found.verdict}")


def _candidates(studied: Study, context: StageContext, units: frozenset[Unit] | None = None) -> list[Plan]:
    """Plans of all units, or of some, that may be worth their time."""
    plan = studied.plan.with_units(useful(studied.plan.units if units is None else units))
    return [plan] if context.target == "graphopt" or not studied.options.speed else place(studied, plan)


def _spared(studied: Study, guarded: Guarded, context: StageContext) -> dict[Plan, Guarded]:
    """Where accuracy took units back: the plan without others that harm, but hardly gain, if there are such."""
    if not guarded.taken_back or context.target == "graphopt":
        return {}
    plan, judge = more_faithful(studied, guarded.plan), judge_for(studied, context)
    if plan is None or not judge.left() or not judge.accepts(plan):
        return {}
    taken = (*guarded.taken_back, *sorted(guarded.plan.units - plan.units, key=guarded.plan.order.__getitem__))
    return {plan: Guarded(plan, guarded.finer & plan.units, taken, judge.describe(plan))}


def _others(studied: Study, guarded: Guarded, plans: list[Plan], context: StageContext) -> dict[Plan, Guarded]:
    """More plans worth timing: what was not cut for speed; where accuracy took units back, the rest cut anew."""
    if guarded.taken_back:
        plans = [p for p in _candidates(studied, context, guarded.plan.units) if p.units != guarded.plan.units]
    judge = judge_for(studied, context)
    found = {}
    for plan in plans:
        if judge.left() and judge.accepts(plan):
            found[plan] = Guarded(plan, guarded.finer, guarded.taken_back, judge.describe(plan))
    return found
