"""One way of pruning a model: score, allocate, remove and recover, in one step or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...analysis.channels import ChannelFacts, find_channels
from ...ir import Array, Model, Node, clone_model
from .cut.remove import remove, unshare
from .options import MEASURED, Prune
from .refit.recover import Recovery, recover
from .score.importance import norm_scales, weight_scores
from .score.measured import measured_scores
from .select.allocation import Share, allocate

Feeds = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A pruned model, what each group kept in the last step, and how its layers were refitted then.

    `removed` of `of` classes went in all; `twins` maps nodes to those of the original.
    """

    model: Model
    shares: list[Share]
    recovery: Recovery
    removed: int
    of: int
    twins: dict[Node, Node]


def attempt(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], *, seed: int = 0,
    reference: Model | None = None, tell: Callable[[float], None] = lambda share: None,
) -> Attempt:  # fmt: skip
    """Prune a copy of `original` by `ratio`. reference: the model as it came, whose BatchNormalizations still stand."""
    model = clone_model(original)
    origin = dict(zip(model.graph.walk(), original.graph.walk()))
    unshare(model)
    scales = norm_scales(reference or original) if options.importance == "bn_scale" else {}
    shares: list[Share] = []
    recovery = Recovery()
    first = 0
    steps = options.iterative_steps
    for step in range(steps):
        facts = find_channels(model)
        first = first or sum(group.size for group in facts.groups if options.select or not group.selections)
        kept, shares = _step(model, facts, options, _share_of_step(ratio, step, steps), feeds, seed, scales)
        remove(model, facts, kept)
        if options.recover:
            recovery = recover(original, model, facts, feeds, origin, kept, ridge=options.ridge, seed=seed)
        tell((step + 1) / steps)
    left = sum(share.kept for share in shares if options.select or not share.group.selections)
    return Attempt(model, shares, recovery, first - left, first, origin)


def _share_of_step(ratio: float, step: int, steps: int) -> float:
    """What goes of what is left, so that equal parts of the whole go in every step."""
    return (ratio / steps) / (1 - ratio * step / steps)


def _step(
    model: Model,
    facts: ChannelFacts,
    options: Prune,
    ratio: float,
    feeds: Iterable[Feeds],
    seed: int,
    scales: dict[str, Array],
) -> tuple[Array, list[Share]]:
    if options.importance in MEASURED:
        scores = measured_scores(model, facts, str(options.importance), feeds, seed)
    else:
        scores = weight_scores(facts, options.importance, seed, scales)
    return allocate(facts, scores, options, ratio)
