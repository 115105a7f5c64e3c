"""The accuracy guard: units are given finer codes, then taken back to float, until the result is good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ....compress.context import StageContext
from ....ir import Model
from ....measure import Quality
from ..candidates.assignment import Plan
from ..candidates.calibrated_model import Study, with_finer
from ..candidates.units import Unit
from ..emit.qdq import build
from ..emit.twin import twin
from ..options import Quantize
from .cost_model import CALL, measure_costs

RANKED = 4
"""Samples by which units are ranked; the verdict takes all."""
ONE_BY_ONE = 48
"""Units up to which each is tried alone to find what it costs; more are ranked by the noise estimated for them."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """The plan that met the guard (no units when none did), what was changed for it, and what it was judged by."""

    plan: Plan
    finer: frozenset[Unit]
    taken_back: tuple[Unit, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class Judge:
    """Says whether what a plan makes is good enough, and how good; `left`: how often it may still be asked."""

    accepts: Callable[[Plan], bool]
    describe: Callable[[Plan], str]
    left: Callable[[], int]


def judge_for(study: Study, context: StageContext) -> Judge:
    """By the metric where there is one and a limit on its fall; else by a floor on fidelity."""
    quality, options, limit, built = context.quality, study.options, context.max_drop, _Built()
    if quality.metric is not None and limit is not None:

        def measured(plan: Plan) -> str:
            model = built(plan)
            return f"metric falls by {quality.drop(model):.4f} of {limit:g} allowed; {quality.fidelity(model)}"

        return Judge(lambda plan: meets(built(plan), options, context), measured, lambda: quality.left)
    if _is_free(options, context):
        return Judge(lambda plan: True, lambda plan: "results not compared: the floor is off", lambda: 1)

    def describe(plan: Plan) -> str:
        model = built(plan)
        floor = f"floor {options.min_sqnr:g} dB, {options.min_top1:.0%}"
        fall = "" if quality.metric is None else f"metric falls by {quality.drop(model):.4f}; "
        return f"{fall}{quality.fidelity(model)} ({floor})"

    return Judge(lambda plan: meets(built(plan), options, context), describe, lambda: options.evaluations)


def meets(model: Model, options: Quantize, context: StageContext) -> bool:
    """Whether a model is good enough: by the metric with its limit, else by the floor on fidelity."""
    quality, limit = context.quality, context.max_drop
    if quality.metric is not None and limit is not None:
        return quality.drop(model) <= limit + 1e-12
    if _is_free(options, context):
        return True
    found = quality.fidelity(model)
    return found.sqnr_db >= options.min_sqnr and (found.top1 is None or found.top1 >= options.min_top1)


def limit_of(options: Quantize, context: StageContext) -> str:
    """What `meets` asks for, in words."""
    if context.quality.metric is not None and context.max_drop is not None:
        return f"a metric that falls by at most {context.max_drop:g}"
    return f"a floor of {options.min_sqnr:g} dB and {options.min_top1:.0%} of top-1 agreement"


def _is_free(options: Quantize, context: StageContext) -> bool:
    return context.quality.metric is None and options.min_sqnr == -np.inf and options.min_top1 <= 0


class _Built:
    """The model of a plan, the last one kept: a plan is judged, then described."""

    def __init__(self) -> None:
        self._last: tuple[Plan, Model] | None = None

    def __call__(self, plan: Plan) -> Model:
        if self._last is None or self._last[0] is not plan:
            self._last = (plan, build(plan))
        return self._last[1]


def unchanged(plan: Plan, judge: Judge) -> Guarded | None:
    """The plan as it is, where that is good enough."""
    return Guarded(plan, frozenset(), (), judge.describe(plan)) if judge.accepts(plan) else None


def guard(study: Study, plan: Plan, context: StageContext) -> Guarded:
    """Make a plan good enough that is not: with as few units changed as the budget of evaluations finds, finer codes
    first, then float."""
    judge = judge_for(study, context)
    order = _by_harm(study, plan, context)
    if study.finer:
        finer = [u for u in order if u.linear is not None]
        count = _fewest(len(finer), lambda n: judge.accepts(_refine(study, plan, finer[:n])), judge)
        if count is not None:
            chosen = _spared(study, plan, finer[:count], judge)
            made = _refine(study, plan, chosen)
            return Guarded(made, frozenset(chosen), (), judge.describe(made))
        plan = _refine(study, plan, finer)
    count = _fewest(len(order), lambda n: judge.accepts(plan.without(order[:n])), judge)
    if count is None or count == len(order):
        return Guarded(plan.with_units(()), frozenset(), tuple(order), "no placement meets it")
    taken = list(order[:count])
    for unit in list(reversed(taken)):  # what was taken back for nothing returns
        if judge.left() < 2 or len(taken) <= 1:
            break
        fewer = [u for u in taken if u is not unit]
        if judge.accepts(plan.without(fewer)):
            taken = fewer
    made = plan.without(taken)
    finer_units = frozenset(u for u in made.units if u.linear is not None) if study.finer else frozenset()
    return Guarded(made, finer_units, tuple(taken), judge.describe(made))


def _refine(study: Study, plan: Plan, units: Sequence[Unit]) -> Plan:
    return with_finer(study, plan, frozenset(u.node for u in units))


def _spared(study: Study, plan: Plan, chosen: Sequence[Unit], judge: Judge) -> list[Unit]:
    """Those of the chosen that really need finer codes, least harmful dropped first, while the budget lasts."""
    kept = list(chosen)
    for unit in reversed(list(chosen)):
        if judge.left() < 2 or len(kept) <= 1:
            break
        fewer = [u for u in kept if u is not unit]
        if judge.accepts(_refine(study, plan, fewer)):
            kept = fewer
    return kept


def _fewest(total: int, accepts: Callable[[int], bool], judge: Judge) -> int | None:
    """The least n in 1 … total that is accepted, by bisection; None if even all are not enough."""
    low, high = 0, total
    if total == 0 or judge.left() < 1 or not accepts(total):
        return None
    while high - low > 1 and judge.left() > 1:
        middle = (low + high) // 2
        if accepts(middle):
            high = middle
        else:
            low = middle
    return high


def _by_harm(study: Study, plan: Plan, context: StageContext) -> list[Unit]:
    """Units with the most harmful first: by the fidelity each costs when it alone is quantized, or by its noise.

    Where speed is asked for, by the power of that error for each second a unit gains: what gains much may harm more.
    """
    units = [u for u in study.units.found if u in plan.units]
    weighty = [u for u in units if not u.moves]
    if len(weighty) <= ONE_BY_ONE:
        measure_alone(study, plan, context, weighty)
    if not all(u in study.alone for u in weighty):
        return sorted(weighty, key=lambda u: -_noise(study, u))
    if not study.options.speed or study.options.mode != "static" or context.target == "graphopt":
        return sorted(weighty, key=lambda u: -study.alone[u])
    costs = measure_costs(study.plan, study.feed, study.shapes)
    gains = {u: max(costs.as_float[u] - costs.as_codes[u], CALL) for u in weighty}
    return sorted(weighty, key=lambda u: -(study.alone[u] ** 2) / gains[u])


def measure_alone(study: Study, plan: Plan, context: StageContext, units: Iterable[Unit]) -> None:
    """Add to the study the relative error (RMS, worst output, first samples) of results with each unit alone quantized.

    Scores are compared before a final Softmax: behind it a few near ties make all of the error of a few samples. One
    run of the model a unit and sample; infinite where results are not finite.
    """
    quality = context.quality
    reference = twin(study.model).model
    if without_softmax(reference):
        quality = Quality(reference, quality.session, quality.feeds, samples=RANKED)
    for unit in units:
        if unit not in study.alone:
            model = build(plan.with_units((unit,)))
            if quality is not context.quality:
                without_softmax(model)
            ratio = quality.fidelity(model, RANKED).sqnr_db
            study.alone[unit] = math.inf if ratio == -math.inf else 10.0 ** (-ratio / 20.0)


def without_softmax(model: Model) -> bool:
    """Let results that a Softmax makes be what it reads; whether there are such."""
    graph = model.graph
    makers = [value.producer for value in graph.outputs]
    scores = [v if n is None or n.op != "Softmax" else n.inputs[0] for v, n in zip(graph.outputs, makers)]
    changed = any(a is not b for a, b in zip(scores, graph.outputs))
    if changed:
        graph.set_outputs([v for v in scores if v is not None], graph.ports)
    return changed


def _noise(study: Study, unit: Unit) -> float:
    """Noise to signal, in dB, that quantizing a unit adds: rounding of its result, and of its weights."""
    solved = study.solved.get(unit.node)
    if unit.output not in study.seen:
        error = None if solved is None else solved.error
        return 20.0 * math.log10(error) if error else -math.inf
    grid, extent = study.plan.grids[unit.output], study.seen[unit.output]
    spread = max(float(extent.high) - float(extent.low), 1e-30) / 6
    noise = grid.scale**2 / 12
    if solved is not None and solved.after is not None and unit.linear is not None:
        noise += solved.after / unit.linear.channels
    return float(10 * np.log10(max(noise, 1e-30) / spread**2))
