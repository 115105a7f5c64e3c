"""The pruning stage: the requested amount, less where quality would fall too far, nothing without a gain."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...analysis.channels import ChannelFacts, find_channels
from ...compress.context import StageContext
from ...compress.report import NOT_MEASURED, StageReport
from ...compress.speed import Speed, kept_speeds, pair_key
from ...equivalence.feeds import Feeds
from ...errors import Declined
from ...ir import Model, Node, clone_model
from ...machine.sessions import PACKED_BESIDE
from ...measure import Timing, compare_latency, figures, node_seconds, own_clock
from ...onnx_io.weights import unpacked_bytes
from .best_way import prune_model
from .cut.remove import unshare
from .options import Prune
from .pruned_model import PrunedModel
from .report import PruneFigures, stage_report, stalled, unchanged
from .select.allocation import check_prunable
from .select.chosen import all_chosen, check_keep, widths_of
from .select.costs import cost_of_nodes

_HALVINGS = 4
"""Bisection steps towards the largest ratio that the metric allows: to a sixteenth of the requested ratio, each at the
cost of one pruning and one evaluation (`python -m tests.bench.prune_speed time` gives the seconds of one)."""
_LEAST_SPEEDUP = 0.99
"""With `speed`, a model clearly below this ratio is rejected: 1 % allows for noise, a choice.
`python -m tests.bench.prune_speed speed` shows the ratios of the zoo."""
_APPROACHES, _BEYOND = 5, 0.98
"""Steps towards a speedup, and each step's aim beyond it: 2 % allow for differences of the next measurement."""
_LEAST_TURNS = 40
"""The fewest turns of a millisecond or more for a clear ratio: quartiles of the five to ten turns on a busy machine
scatter so little by chance that one of four ratios of 1.08 showed as 1.4 to 2.3 at four standard errors."""
_SECONDS, _ATTEMPTS = 0.25, 3
"""Seconds per model in a first measurement, and the most measurements, each twice as long, until the ratio is clear.
Bounds on time: 3.5 s at most."""


def prune(model: Model, options: Prune, context: StageContext) -> tuple[Model, StageReport]:
    """Remove channels from a copy of `model` as `options` say.

    With a metric and `max_drop`, the largest share of `ratio` that keeps the metric is searched for; the model is
    returned unchanged when no share does, when there is nothing to remove, or, with `speed`, when it clearly did not
    become faster.
    """
    start = time.perf_counter()
    unshared = clone_model(model)
    unshare(unshared)
    facts = find_channels(unshared)
    try:
        check_keep(options, facts)
        _check_any_prunable(facts, options)
        is_chosen = all_chosen(options, facts)
        goal, decided = (None, options) if is_chosen else _goal(model, options, context)
        pruned, note = _as_chosen(model, options, context) if is_chosen else _search(model, decided, context, goal)
        if not pruned.removed:
            raise Declined(note)
    except Declined as declined:
        settled = replace(options, keep=widths_of(facts), iterative_steps=1, exchange=0)
        return model, replace(unchanged(declined.reason, facts, time.perf_counter() - start), settled=settled)
    is_synthetic, undone = context.calibration.is_synthetic, pruned.recovery.undone
    notes = [note, *([f"{undone} (made-up inputs)" if is_synthetic else undone] if undone else [])]
    if _decided(options, pruned) != options:
        notes.append(_way(pruned.options, options))
    if goal is not None and goal.missed(pruned):
        notes.append(f"{goal.text} were asked for: no more can be removed (least={options.least:g})")
    decides = options.speed and not is_chosen
    times = _times(model, pruned, context) if decides or context.is_timed else PruneFigures()
    if decides and times.speedup is not None and times.speedup < _LEAST_SPEEDUP:
        reason = f"the pruned model runs at {times.speedup:.2f}x the speed here: nothing is removed"
        settled = replace(options, keep=widths_of(facts), iterative_steps=1, exchange=0)
        return model, replace(unchanged(reason, facts, time.perf_counter() - start, times), settled=settled)
    report = stage_report(pruned, figures(model), facts, times, notes, time.perf_counter() - start, is_synthetic)
    return pruned.model, replace(report, settled=replace(_decided(options, pruned), keep=pruned.keep, exchange=0))


def _decided(options: Prune, pruned: PrunedModel) -> Prune:
    """The options with the decisions of the way taken."""
    way = pruned.options
    return replace(
        options, importance=way.importance, iterative_steps=way.iterative_steps, global_ranking=way.global_ranking
    )


def _way(taken: Prune, asked: Prune) -> str:
    """The way taken, in words, as far as the options left it open."""
    steps = taken.iterative_steps or 1
    fewer = steps < (asked.iterative_steps or 1)
    parts = [f"importance {taken.importance!r}"] if asked.importance != taken.importance else []
    parts += ["every layer alike"] if asked.global_ranking != taken.global_ranking else []
    parts += [f"in {steps} steps" if steps > 1 else "in one step"] if fewer or steps > 1 else []
    return ", ".join(parts) + (f": {asked.iterative_steps} left a larger error on samples apart" if fewer else "")


def _check_any_prunable(facts: ChannelFacts, options: Prune) -> None:
    """Declined, with the first group's reason, where no group may lose channels."""
    reasons: list[str] = []
    for group in facts.groups:
        try:
            check_prunable(group, options)
        except Declined as declined:
            reasons.append(declined.reason)
        else:
            return
    raise Declined(": ".join(["no layer has channels that can be removed", *reasons[:1]]))


@dataclass(frozen=True, slots=True)
class _Goal:
    """A cost to reduce. costs: of each node of the model; left: the share that may stay. text: in words."""

    costs: Mapping[Node, float]
    left: float
    text: str

    def missed(self, pruned: PrunedModel) -> bool:
        """Whether more remains than the target allows."""
        return pruned.left is not None and pruned.left > self.left * (1 + 1e-9)


def _goal(model: Model, options: Prune, context: StageContext) -> tuple[_Goal | None, Prune]:
    """The target of the options, and the options with a suitable way.

    A speedup is measured, after the first time on models without refits, and the allowed share of the nodes' time is
    lowered until the speedup is reached: narrow layers take more than their share.
    """
    if options.target is None:
        return None, options
    kind, left = options.target
    feeds = context.calibration.first(1)[0]
    costs = cost_of_nodes(kind, model, feeds)
    if kind != "speedup":
        words = "multiply-accumulates" if kind == "macs" else "parameters"
        return _Goal(costs, left, f"{left:.0%} of the {words}"), options
    goal, wanted = _Goal(costs, left, f"{options.speedup:g}x the speed"), float(options.speedup or 1.0)
    pruned = _pruned(model, replace(options, exchange=0), context, 1.0, goal)
    options = _decided(options, pruned)
    for approach in range(_APPROACHES):
        if approach:
            pruned = _pruned(model, replace(options, recover=False, exchange=0), context, 1.0, goal)
        ratio = _kept_speed(model, pruned.model, context, wanted).ratio
        if ratio >= wanted or goal.missed(pruned):
            break
        goal = replace(goal, left=goal.left * ratio / wanted * _BEYOND)
    return goal, options


def _as_chosen(model: Model, options: Prune, context: StageContext) -> tuple[PrunedModel, str]:
    """The model with the caller's widths, and its quality in words."""
    pruned = _pruned(model, options, context, 1.0, None)
    if context.quality.metric is not None:
        return pruned, f"the metric falls by {context.quality.drop(pruned.model):.4g}"
    is_synthetic = context.calibration.is_synthetic
    return pruned, NOT_MEASURED if is_synthetic else str(context.quality.fidelity(pruned.model))


def _search(model: Model, options: Prune, context: StageContext, goal: _Goal | None) -> tuple[PrunedModel, str]:
    """The model pruned by the largest share of the ratio that the metric allows, and its quality in words.

    Without a metric, by the whole ratio. Declined where no tried share keeps the metric.
    """
    pruned = _pruned(model, options, context, 1.0, goal)
    options = _decided(options, pruned)
    if context.max_drop is None or context.quality.metric is None:
        is_synthetic = context.calibration.is_synthetic
        return pruned, NOT_MEASURED if is_synthetic else str(context.quality.fidelity(pruned.model))
    drop = context.quality.drop(pruned.model)
    if drop <= context.max_drop:
        return pruned, f"the metric falls by {drop:.4g}"
    whole = f"{options.ratio:.0%}" if goal is None else goal.text
    asked = f"{whole} would cost {drop:.4g} of the metric, {context.max_drop:.4g} is allowed"
    best: PrunedModel | None = None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        if not context.quality.left:
            break
        share = (low + high) / 2
        pruned = _pruned(model, options, context, share, goal)
        share_drop = context.quality.drop(pruned.model)
        if share_drop <= context.max_drop:
            best, low, drop = pruned, share, share_drop
        else:
            high = share
    if best is None:
        raise Declined(f"{asked}: nothing is removed")
    reached = f"{options.ratio * low:.0%}" if goal is None else f"{low:.0%} of that"
    return best, f"{asked}: reduced to {reached}, which costs {drop:.4g}"


def _pruned(model: Model, options: Prune, context: StageContext, share: float, goal: _Goal | None) -> PrunedModel:
    scaled = replace(options, ratios={name: ratio * share for name, ratio in options.ratios.items()})
    ratio = options.ratio if goal is None else 1 - goal.left
    return prune_model(
        model, scaled, ratio * share, context.calibration, seed=context.seed, reference=context.quality.reference,
        progress=lambda done: context.tell("prune", done), costs=None if goal is None else goal.costs,
        is_rough=context.calibration.is_synthetic, executor=context.executor,
    )  # fmt: skip


def _times(model: Model, pruned: PrunedModel, context: StageContext) -> PruneFigures:
    """Latency before and after in one thread, and the layers that shrank without becoming faster; no ratio where it was
    not clear."""
    feeds = context.calibration.first(1)[0]
    speed = _kept_speed(model, pruned.model, context, _LEAST_SPEEDUP)
    before, after = (node_seconds(one, feeds, packs=_packs(model, pruned.model)) for one in (model, pruned.model))
    without_gain = stalled(before, after, pruned.originals)
    if speed.is_predicted:
        return PruneFigures(stalled=without_gain)
    return PruneFigures(speed.before, speed.after, speed.ratio, without_gain)


def _kept_speed(model: Model, pruned: Model, context: StageContext, border: float) -> Speed:
    """The pruned model's speed, kept for pairs of models of the same structure: measured until clear of `border`, else
    predicted."""
    feeds = context.calibration.first(1)[0]
    key = f"{pair_key(model, pruned, feeds, context.target)}:{border:g}"
    times = partial(_clear_timings, feeds=feeds, border=border)
    clear = partial(_is_clear, border=border)
    packs = _packs(model, pruned)
    return kept_speeds(model, {key: lambda: pruned}, feeds, context.target, times, clear, packs)[key]


def _packs(model: Model, pruned: Model) -> bool:
    """Whether sessions of both pack weights: neither, where both together are large."""
    return unpacked_bytes(model) + unpacked_bytes(pruned) <= PACKED_BESIDE


def _clear_timings(sessions: Mapping[str, Any], feeds: Feeds, border: float) -> list[Timing]:
    """The time after pruning, measured up to `_ATTEMPTS` times until its ratio to the time before is clear."""
    for attempt in range(_ATTEMPTS):
        _, after = compare_latency(sessions, feeds, seconds=_SECONDS * 2**attempt, clock=own_clock())
        if _is_clear(after, border):
            break
    return [after]


def _is_clear(timing: Timing, border: float) -> bool:
    """Whether four standard errors lie between the ratio and the border, with enough turns on a busy machine."""
    is_measured = timing.runs * max(1.0, timing.median / 1e-3) >= _LEAST_TURNS
    return is_measured and abs(timing.ratio - border) > 4 * timing.error * timing.ratio
