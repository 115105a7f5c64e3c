"""Prune a model by a given ratio: score, allocate, remove and refit, in one step or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...analysis.channels import ChannelFacts, ChannelGroup, find_channels
from ...equivalence.feeds import Feeds
from ...ir import Array, Model, Node, clone_model
from .cut.remove import remove, unshare
from .options import MEASURED, Prune
from .refit.recover import Recovery, recover
from .score.importance import norm_scales, weight_scores
from .score.measured import measured_scores
from .select.allocation import Allocation, allocate
from .select.selection import positions_per_class


@dataclass(frozen=True, slots=True, eq=False)
class PrunedModel:
    """A pruned copy of a model.

    allocations, recovery: the channels each group kept, and how layers were refitted, in the last step. removed, total:
    channels, over all steps; those of an attention head count each. originals: for each node the node of the original
    that it is a copy of.
    """

    model: Model
    allocations: list[Allocation]
    recovery: Recovery
    removed: int
    total: int
    originals: dict[Node, Node]


def prune_model(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], *, seed: int = 0,
    reference: Model | None = None, progress: Callable[[float], None] = lambda share: None,
) -> PrunedModel:  # fmt: skip
    """Prune a copy of `original` by `ratio`. reference: the model as it came, with its BatchNormalizations."""
    model = clone_model(original)
    originals = dict(zip(model.graph.walk(), original.graph.walk()))
    unshare(model)
    scales = norm_scales(reference or original) if options.importance == "bn_scale" else {}
    allocations: list[Allocation] = []
    recovery = Recovery()
    alive: dict[Node, Array] = {}
    total = 0
    steps = options.iterative_steps
    for step in range(steps):
        facts = find_channels(model)
        total = total or sum(_channels(group, group.size, options) for group in facts.groups)
        scores = _scores(model, facts, options, feeds, seed, scales)
        kept, allocations = allocate(facts, scores, options, _step_ratio(ratio, step, steps))
        remove(facts, kept)
        if options.recover:
            recovery = recover(
                original, model, facts, feeds, originals, kept, ridge=options.ridge, seed=seed, alive=alive
            )
        progress((step + 1) / steps)
    left = sum(_channels(one.group, one.kept, options) for one in allocations)
    return PrunedModel(model, allocations, recovery, total - left, total, originals)


def _channels(group: ChannelGroup, classes: int, options: Prune) -> int:
    """Channels in some classes of a group; none where the options leave selections alone."""
    return classes * positions_per_class(group) if options.select or not group.selections else 0


def _step_ratio(ratio: float, step: int, steps: int) -> float:
    """Fraction of the remaining channels to prune in this step, so that each removes the same number."""
    return (ratio / steps) / (1 - ratio * step / steps)


def _scores(
    model: Model, facts: ChannelFacts, options: Prune, feeds: Iterable[Feeds], seed: int, scales: dict[str, Array]
) -> Array:
    if options.importance in MEASURED:
        return measured_scores(model, facts, str(options.importance), feeds, seed)
    return weight_scores(facts, options.importance, seed, scales)
