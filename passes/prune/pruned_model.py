"""Prune a model by a given ratio: score, allocate, remove and refit, in one step or several."""

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
from .select.selection import positions_per_class

_HALVINGS = 12
"""Bisection steps towards a ratio of costs: to a four-thousandth, finer than one channel of most models."""


@dataclass(frozen=True, slots=True, eq=False)
class PrunedModel:
    """A pruned copy of a model.

    allocations, recovery: the channels each group kept, and how layers were refitted, in the last step. removed, total:
    channels, over all steps; those of an attention head count each. originals: for each node the node of the original
    that it is a copy of. left: the share of the costs that is left, by their model; None where none were given. steps:
    in which it was made. keep: how many channels each group kept, by `Prune.keep`.
    """

    model: Model
    allocations: list[Allocation]
    recovery: Recovery
    removed: int
    total: int
    originals: dict[Node, Node]
    left: float | None = None
    steps: int = 1
    keep: Mapping[str, int | Sequence[int]] = field(default_factory=dict)


def prune_model(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], *, seed: int = 0,
    reference: Model | None = None, progress: Callable[[float], None] = lambda share: None, is_rough: bool = False,
    costs: Mapping[Node, float] | None = None,
) -> PrunedModel:  # fmt: skip
    """Prune a copy of `original` by `ratio`: of its channels, or of the costs of its nodes where these are given.

    reference: the model as it came, with its BatchNormalizations. is_rough: the feeds are made up. Several steps are
    taken only where they leave results as near to the original's as one does, on the samples of `HeldOutError`.
    """
    steps = options.iterative_steps
    held_out = HeldOutError(original, feeds if steps > 1 and not is_rough and not options.keep else ())
    attempts = [options, replace(options, iterative_steps=1)] if held_out.feeds else [options]
    whole = sum(one.iterative_steps for one in attempts)
    found: list[PrunedModel] = []
    for one in attempts:
        done = sum(pruned.steps for pruned in found)

        def tell(share: float, done: int = done, steps: int = one.iterative_steps) -> None:
            progress((done + share * steps) / whole)

        found.append(_in_steps(original, one, ratio, feeds, seed, reference, tell, is_rough, costs))
    many, once = found[0], found[-1]
    if many is once or (costs is not None and (once.left or 0.0) > max(1 - ratio, many.left or 0.0)):
        return many
    errors = [float(held_out.errors(pruned.model).mean()) for pruned in found]
    return once if errors[1] < errors[0] else many


def _in_steps(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], seed: int, reference: Model | None,
    progress: Callable[[float], None], is_rough: bool, costs: Mapping[Node, float] | None,
) -> PrunedModel:  # fmt: skip
    """`prune_model` in the steps of the options."""
    model = clone_model(original)
    originals = dict(zip(model.graph.walk(), original.graph.walk()))
    unshare(model)
    scales = norm_scales(reference or original) if options.importance == "bn_scale" else {}
    allocations: list[Allocation] = []
    recovery = Recovery()
    alive: dict[Node, Array] = {}
    counts: list[dict[str, int]] = []
    total = 0
    steps = options.iterative_steps
    left = None if costs is None else _costs(costs, originals)
    for step in range(steps):
        facts = find_channels(model)
        asked = keep_in_step(options, facts, step)
        total = total or sum(_channels(group, group.size, options) for group in facts.groups)
        scores = _scores(model, facts, options, feeds, seed, scales)
        if left is None:
            kept, allocations = allocate(facts, scores, asked, _step_ratio(ratio, step, steps))
        else:
            kept, allocations = _allocate_cost(facts, scores, asked, left, 1 - ratio * (step + 1) / steps)
            left = left.narrowed(facts, kept)
        counts.append(kept_channels(allocations))
        remove(facts, kept)
        if options.recover:
            recovery = recover(
                original, model, facts, feeds, originals, kept, ridge=options.ridge, seed=seed, is_rough=is_rough,
                alive=alive,
            )  # fmt: skip
        progress((step + 1) / steps)
    stay = sum(_channels(one.group, one.kept, options) for one in allocations)
    share = None if left is None else sum(left.of.values()) / max(left.total, 1e-30)
    return PrunedModel(model, allocations, recovery, total - stay, total, originals, share, steps, joined_steps(counts))


def _costs(of: Mapping[Node, float], originals: Mapping[Node, Node]) -> Costs:
    copies = {node: of[original] for node, original in originals.items() if original in of}
    return Costs(copies, sum(of.values()))


def _allocate_cost(
    facts: ChannelFacts, scores: Array, options: Prune, costs: Costs, share: float
) -> tuple[Array, list[Allocation]]:
    """The allocation that removes least of those that leave at most `share` of the costs; the one that leaves least
    where none does.

    What channels save depends on which others go, so that the ratio is found by bisection.
    """
    per_class = costs.per_class(facts)
    low, high = 0.0, 1.0
    best = least = allocate(facts, scores, options, high, per_class)
    if costs.share(facts, least[0]) > share:
        return least
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        found = allocate(facts, scores, options, ratio, per_class)
        if costs.share(facts, found[0]) <= share:
            best, high = found, ratio
        else:
            low = ratio
    return best


def _channels(group: ChannelGroup, classes: int, options: Prune) -> int:
    """Channels in some classes of a group; none where the options leave selections alone."""
    return classes * positions_per_class(group) if options.select or not group.selections else 0


def _step_ratio(ratio: float, step: int, steps: int) -> float:
    """Fraction of the remaining channels to prune in this step, so that each removes the same number."""
    return (ratio / steps) / (1 - ratio * step / steps)


def _scores(
    model: Model, facts: ChannelFacts, options: Prune, feeds: Iterable[Feeds], seed: int, scales: dict[str, Array]
) -> Array:
    if options.importance in GRADIENTS:
        return gradient_scores(model, facts, str(options.importance), feeds, seed)
    if options.importance in MEASURED:
        return measured_scores(model, facts, str(options.importance), feeds, seed)
    return weight_scores(facts, options.importance, seed, scales)
