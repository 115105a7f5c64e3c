"""Static quantization: study the model, place units where they gain, guard accuracy and speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

from ... import rewrite
from ...compress.context import StageContext
from ...compress.report import StageReport
from ...errors import Declined
from ...ir import Model, Value
from ...measure import figures, macs_at
from ..convert.roots import spell_powers
from .candidates.already_quantized import quantized_form
from .candidates.assignment import Plan
from .candidates.calibrated_model import Study, study
from .candidates.units import Unit
from .candidates.upgrade import upgraded
from .emit.layers import BLOCKED
from .emit.qdq import build
from .emit.twin import twin
from .nested import quantize_branches, with_branches
from .numerics.equalize import equalize
from .numerics.solve import pair_certificate
from .options import Quantize
from .place.accuracy_guard import Guarded, guard, judge_for, limit_of, measure_alone, unchanged
from .place.bias_correction import with_means
from .place.calibration_methods import best_method
from .place.latency_guard import fastest, place, useful
from .place.mixed_precision import more_faithful
from .place.per_channel_activations import with_channels
from .recurrent import quantize_recurrent

COLUMNS = ("layer", "operator", "runs on", "bits", "J nearest", "J found", "weight error", "worst pair", "16 bits")
ALONE = "error alone"
"""The column of what each layer costs when it alone is quantized, where that was measured."""


def quantize_model(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize activations and weights; the model itself, and why, where that cannot be done or gains nothing."""
    form = quantized_form(model)
    if form:
        return model, StageReport(f"quantize {options.mode}", f"already quantized, kept: {form}", changed=False)
    try:
        raised = _raised(model, options, context)
    except Declined as reason:
        return model, StageReport(f"quantize {options.mode}", f"left float: {reason}", changed=False)
    nested = quantize_branches(raised, options, context, quantize_model)
    base = nested.model if nested.reports else model
    made, report = _quantize_root(base, prepared(nested.model, options, context.target), options, context)
    recurrent = quantize_recurrent(made if report.changed or nested.reports else raised, options, context)
    for part in (nested, recurrent):
        report = with_branches(report, part, figures(base).macs if part.reports else None)
    return recurrent.model if recurrent.reports else made, report


def _quantize_root(model: Model, ready: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    studied = study(ready, options, context)
    if not any(u.linear is not None for u in studied.plan.units):
        why = "left float: no convolution or matrix product with constant weights can be quantized"
        refused = tuple(studied.units.refused)
        return model, StageReport(f"quantize {options.mode}", why, refused=refused, changed=False)
    studied = with_means(best_method(studied, context), context)
    studied, decision = decide(model, studied, context)
    return _finished(model, studied, decision)


def _raised(model: Model, options: Quantize, context: StageContext) -> Model:
    """At an operator set that has what the mode needs; blocks and fused stored weights where it can be reached."""
    if options.mode == "weights":
        try:
            return upgraded(model, context, BLOCKED)
        except Declined:
            pass
    return upgraded(model, context)


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


def prepared(model: Model, options: Quantize, target: str) -> Model:
    """A copy in which what integers can run is spelled one way: Sum of two is Add; layers equalised if wanted.

    For speed in onnxruntime LRN is spelled, too: fast integers leave it nearly all of the time.
    """
    copy = twin(model).model
    for node in list(copy.graph):
        if node.op == "Sum" and len(node.inputs) == 2:
            _rename(copy, node, "Add")
    if options.equalize and options.mode == "static":
        equalize(copy)
    if options.speed and target != "graphopt":
        spell_powers.run(copy.graph, rewrite.Context(target))
    return copy


def _rename(model: Model, node: Any, op: str) -> None:
    from ...ir import Node

    made = Node(op, node.inputs, {}, [v.type for v in node.outputs], name=node.name)
    made.origins, made.made_by = node.origins, "quantize"
    made.output.name = node.output.name
    model.graph.insert_before(node, made)
    model.graph.replace_uses(node.output, made.output)
    model.graph.erase(node)


def _finished(model: Model, studied: Study, decision: Decision) -> tuple[Model, StageReport]:
    plan = decision.plan
    chosen: frozenset[Unit] = frozenset() if plan is None else plan.units
    what = "int8" if studied.options.mode != "weights" else f"layers stored as {studied.options.weight_type}"
    columns, rows = _table(studied, plan)
    macs = macs_at(studied.model, studied.shapes)
    total, inside = sum(macs.values()), sum(macs.get(u.node, 0) for u in chosen)
    apart: Set[Value] = set() if plan is None else plan.channels.keys()
    facts = {
        "share_of_macs": inside / total if total else 0.0,
        "speed": decision.ratio,
        "layers": sum(u.linear is not None for u in chosen),
        "layers_float": sum(u.linear is not None for u in studied.plan.units - chosen),
        "samples": studied.samples,
        "calibrate_method": studied.options.calibrate_method if studied.options.mode == "static" else None,
        "objective_before": _sum(s.before for n, s in studied.solved.items()),
        "objective_after": _sum(s.after for n, s in studied.solved.items()),
        "pair_safe": None if plan is None else _pair_safe(studied, plan),
        "per_channel_activations": len({v for u in chosen for v in (*u.inputs, *u.outputs)} & apart),
    }
    refused = list(studied.units.refused)
    taken = () if decision.guarded is None else decision.guarded.taken_back
    refused += [(u.name, "taken back for accuracy") for u in taken]
    slow = [u for u in studied.plan.units - chosen if u not in taken and u.linear is not None]
    refused += [(u.name, "does not gain on integers here") for u in slow] if plan is not None else []
    if plan is None:
        report = StageReport(
            f"quantize {studied.options.mode}", decision.text, columns, rows, facts, tuple(refused), changed=False
        )
        return model, report
    text = f"{facts['share_of_macs']:.0%} of MACs in {what}, {decision.text}"
    if facts["per_channel_activations"]:
        text += f"; {facts['per_channel_activations']} activations with scales a channel"
    return build(plan), StageReport(f"quantize {studied.options.mode}", text, columns, rows, facts, tuple(refused))


def _table(studied: Study, plan: Plan | None) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Columns, and a row a layer."""
    layers = [unit for unit, _ in studied.units.linear() if unit in studied.plan.units]
    rows = [_row(studied, plan, unit) for unit in layers]
    if not any(unit in studied.alone for unit in layers):
        return COLUMNS, tuple(rows)
    costs = [studied.alone.get(unit) for unit in layers]
    told = [cost if cost is not None and math.isfinite(cost) else None for cost in costs]
    return (*COLUMNS, ALONE), tuple((*row, cost) for row, cost in zip(rows, told))


def _row(studied: Study, plan: Plan | None, unit: Unit) -> tuple[Any, ...]:
    solved = studied.solved[unit.node]
    if plan is None or unit not in plan.units:
        return (unit.name, unit.node.op, "float", None, solved.before, solved.after, solved.error, None, None)
    codes = plan.codes[unit.node]
    finer = studied.finer.get(unit.node)
    if finer is not None and codes is finer.codes:
        solved = finer
    safe = certificate(unit, plan)
    found = (solved.before, solved.after, solved.error)
    return (unit.name, unit.node.op, "int8", codes.bits, *found, codes.worst_pair, safe)


def certificate(unit: Unit, plan: Plan) -> str:
    """Why sums of two u8×s8 products of this layer are exact in 16 bits, or that they may not be."""
    codes, linear = plan.codes[unit.node], unit.linear
    if plan.options.mode == "weights" or unit.node.op == "Gather":
        return "exact: float products"
    if linear is not None and linear.is_depthwise:
        return "exact: no pairs"
    return pair_certificate(codes.worst_pair, plan.options)


def _pair_safe(studied: Study, plan: Plan) -> bool:
    return all(certificate(u, plan).startswith("exact") for u in plan.units if u.linear is not None)


def _sum(values: Iterable[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return sum(found) if found else None
