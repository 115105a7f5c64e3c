"""The pruning stage: as much as was asked for, less where quality would fall too far, nothing without a gain."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ...analysis.channels import channels
from ...compress.context import StageContext
from ...compress.report import StageReport
from ...ir import Model, clone_model
from ...measure import compare_latency, figures, node_seconds
from .attempt import Attempt, attempt
from .cut.remove import unshare
from .options import Prune
from .report import stage_report, stalled, unchanged
from .select.allocation import refusal

_HALVINGS = 4
"""How often the share that is removed is halved towards what the metric allows."""


def prune(model: Model, options: Prune, context: StageContext) -> tuple[Model, StageReport]:
    """Remove channels from a copy of `model` as `options` say.

    With a metric and `max_drop`, the largest share of `ratio` is searched for that keeps the metric; the model is
    handed back as it came when no share does, when there is nothing to remove, or when it did not become faster.
    """
    start = time.perf_counter()
    options = _resolved(options, context)
    apart = clone_model(model)
    unshare(apart)
    facts = channels(apart)
    if all(refusal(group, options) for group in facts.groups):
        why = next((f": {refusal(group, options)}" for group in facts.groups), "")
        reason = f"no layer has channels that can be removed{why}"
        return model, unchanged(reason, facts, time.perf_counter() - start)
    notes: list[str] = []
    found = _search(model, options, context, notes)
    if found is None or not found.removed:
        reason = notes[-1] if notes else "no group loses a channel: the ratio is too small for round_to"
        return model, unchanged(reason, facts, time.perf_counter() - start)
    notes += [found.recovery.undone] if found.recovery.undone else []
    times = _times(model, found, context)
    if options.speed and times["speedup"] < 0.99:
        reason = f"the pruned model runs at {times['speedup']:.2f}x the speed here: nothing is removed"
        return model, unchanged(reason, facts, time.perf_counter() - start, times)
    return found.model, stage_report(found, figures(model), facts, times, notes, time.perf_counter() - start)


def _resolved(options: Prune, context: StageContext) -> Prune:
    """Where the importance is left open: measured on data, if there are any.

    What the loss of a channel costs at once can be compared across layers; after each layer has adapted to the loss of
    one channel, only within it.
    """
    if options.importance != "auto":
        return options
    measured = "reconstruction" if options.global_ranking else "hessian"
    return replace(options, importance="l2" if context.calibration.note else measured)


def _search(model: Model, options: Prune, context: StageContext, notes: list[str]) -> Attempt | None:
    """The attempt with the largest share of the ratio that the metric allows; all of it without a metric."""
    found = _try(model, options, context, 1.0)
    guarded = context.max_drop is not None and context.quality.metric is not None
    if not guarded:
        notes.append(str(context.quality.fidelity(found.model)))
        return found
    assert context.max_drop is not None
    drop = context.quality.drop(found.model)
    if drop <= context.max_drop:
        notes.append(f"the metric falls by {drop:.4g}")
        return found
    best: Attempt | None = None
    told = drop
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        if not context.quality.left:
            break
        share = (low + high) / 2
        tried = _try(model, options, context, share)
        now = context.quality.drop(tried.model)
        if now <= context.max_drop:
            best, low, told = tried, share, now
        else:
            high = share
    asked = f"{options.ratio:.0%} would cost {drop:.4g} of the metric, {context.max_drop:.4g} is allowed"
    if best is None:
        notes.append(f"{asked}: nothing is removed")
        return None
    notes.append(f"{asked}: taken back to {options.ratio * low:.0%}, which costs {told:.4g}")
    return best


def _try(model: Model, options: Prune, context: StageContext, share: float) -> Attempt:
    scaled = replace(options, ratios={name: ratio * share for name, ratio in options.ratios.items()})
    return attempt(
        model, scaled, options.ratio * share, context.calibration, seed=context.seed,
        reference=context.quality.reference, tell=lambda done: context.tell("prune", done),
    )  # fmt: skip


def _times(model: Model, found: Attempt, context: StageContext) -> dict[str, Any]:
    """Measured latency before and after, interleaved, and the layers that shrank in vain."""
    feeds = context.calibration.first(1)[0]
    sessions = {"before": context.quality.session(model), "after": context.quality.session(found.model)}
    before, after = compare_latency(sessions, feeds, seconds=0.5)
    in_vain = stalled(node_seconds(model, feeds), node_seconds(found.model, feeds), found.twins)
    return {"seconds_before": before.median, "seconds_after": after.median, "speedup": after.ratio, "stalled": in_vain}
