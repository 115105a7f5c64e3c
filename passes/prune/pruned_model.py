"""Prune a model by a given ratio in one way: score, allocate, remove and refit, in one step or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...analysis.channels import ChannelFacts, ChannelGroup, find_channels
from ...equivalence.feeds import Feeds
from ...ir import Array, Model, Node, clone_model
from .cut.remove import remove, unshare
from .options import GRADIENTS, MEASURED, Prune
from .refit.held_out import HeldOutError
from .refit.recover import Recovery, recover
from .score.gradients import gradient_scores
from .score.importance import norm_scales, weight_scores
from .score.measured import measured_scores
from .select.allocation import Allocation, allocate
from .select.chosen import joined_steps, keep_in_step, kept_channels
from .select.costs import Costs
from .select.filling import fill
from .select.selection import positions_per_class
from .select.widths import Widths

_HALVINGS = 12
"""Bisection steps towards a ratio of costs: to a four-thousandth, finer than one channel of most models."""


@dataclass(frozen=True, slots=True, eq=False)
class PrunedModel:
    """A pruned copy of a model.

    allocations, recovery: the channels kept by each group, and the refits of layers, in the last step. removed, total:
    channels, over all steps, counting each channel of an attention head. originals: the original of each copied node.
    left: the remaining share of the costs, by their model; None without costs. options: of the way taken, fully
    specified. keep: the channels kept by each group, as for `Prune.keep`.
    """

    model: Model
    allocations: list[Allocation]
    recovery: Recovery
    removed: int
    total: int
    originals: dict[Node, Node]
    options: Prune
    left: float | None = None
    keep: Mapping[str, int | Sequence[int]] = field(default_factory=dict)


def prune_in_steps(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], seed: int, reference: Model | None,
    progress: Callable[[float], None], is_rough: bool, costs: Mapping[Node, float] | None,
    first_scores: Array | None = None, held_out: HeldOutError | None = None,
) -> PrunedModel:  # fmt: skip
    """Prune a copy of `original` by `ratio` in one way: of its channels, or of the costs of its nodes where these are
    given. reference: the given model, with its BatchNormalizations. is_rough: the feeds are made up. first_scores: of
    the first step, f64[classes], where known. held_out: samples that no layer is refitted on. ModelError where the way
    needs a gradient that a node lacks."""
    model = clone_model(original)
    originals = dict(zip(model.graph.walk(), original.graph.walk()))
    unshare(model)
    scales = norm_scales(reference or original) if options.importance == "bn_scale" else {}
    allocations: list[Allocation] = []
    recovery = Recovery()
    alive: dict[Node, Array] = {}
    counts: list[dict[str, int]] = []
    total = 0
    steps = options.iterative_steps or 1
    left = None if costs is None else _costs(costs, originals)
    widths: Widths | None = None
    for step in range(steps):
        facts = find_channels(model)
        widths = widths or Widths(facts)
        total = total or sum(_channels(group, group.size, options) for group in facts.groups)
        known = first_scores if step == 0 else None
        scores = _scores(model, facts, options, feeds, seed, scales) if known is None else known
        share = (step + 1) / steps
        now = keep_in_step(options, facts, step)
        now = replace(now, ratios={name: one * share for name, one in options.ratios.items()})
        if left is None:
            kept, allocations = allocate(facts, scores, now, ratio * share, widths=widths)
        else:
            kept, allocations = _allocate_cost(facts, scores, now, left, 1 - ratio * share, widths)
            left = left.narrowed(facts, kept)
        counts.append(kept_channels(allocations))
        widths.narrow(facts, kept)
        remove(facts, kept)
        if options.recover:
            recovery = recover(
                original, model, facts, feeds, originals, kept, ridge=options.ridge, seed=seed, is_rough=is_rough,
                alive=alive, held_out=held_out,
            )  # fmt: skip
        progress((step + 1) / steps)
    stay = sum(_channels(one.group, one.kept, options) for one in allocations)
    by_cost = None if left is None else sum(left.of.values()) / max(left.total, 1e-30)
    keep = joined_steps(counts)
    return PrunedModel(model, allocations, recovery, total - stay, total, originals, options, by_cost, keep)


def scores_of(original: Model, options: Prune, feeds: Iterable[Feeds], seed: int, reference: Model | None) -> Array:
    """f64[classes]: the scores of the first step of a way."""
    model = clone_model(original)
    unshare(model)
    scales = norm_scales(reference or original) if options.importance == "bn_scale" else {}
    return _scores(model, find_channels(model), options, feeds, seed, scales)


def _costs(of: Mapping[Node, float], originals: Mapping[Node, Node]) -> Costs:
    copies = {node: of[original] for node, original in originals.items() if original in of}
    return Costs(copies, sum(of.values()))


def _allocate_cost(
    facts: ChannelFacts, scores: Array, options: Prune, costs: Costs, share: float, widths: Widths
) -> tuple[Array, list[Allocation]]:
    """The allocation that removes least while leaving at most `share` of the costs, filled up to that share; the one
    that leaves least where none does.

    A channel's saving depends on which other channels are removed, so bisection finds the ratio.
    """
    per_class = costs.per_class(facts)
    low, high = 0.0, 1.0
    best = least = allocate(facts, scores, options, high, per_class, widths)
    if costs.share(facts, least[0]) > share:
        return least
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        found = allocate(facts, scores, options, ratio, per_class, widths)
        if costs.share(facts, found[0]) <= share:
            best, high = found, ratio
        else:
            low = ratio
    return fill(facts, scores, options, costs, share, *best)


def _channels(group: ChannelGroup, classes: int, options: Prune) -> int:
    """Number of channels in `classes` of a group; 0 for selections where the options exclude them."""
    return classes * positions_per_class(group) if options.select or not group.selections else 0


def _scores(
    model: Model, facts: ChannelFacts, options: Prune, feeds: Iterable[Feeds], seed: int, scales: dict[str, Array]
) -> Array:
    if options.importance in GRADIENTS:
        return gradient_scores(model, facts, str(options.importance), feeds, seed)
    if options.importance in MEASURED:
        return measured_scores(model, facts, str(options.importance), feeds, seed)
    return weight_scores(facts, options.importance, seed, scales)
