"""Allocation of removed channels to groups: the same share of each, or the lowest scores across groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....analysis.channels import STATISTICS, ChannelFacts, ChannelGroup, Classes
from ....errors import Declined, OptionError
from ....ir import Array, Node
from ..options import MEASURED, Prune
from .selection import choose_classes, positions_per_class, rounded_width
from .widths import Widths


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """The number of classes a group keeps, and the reason where it lost fewer than its share, else "". asked: the
    requested number; more are kept where parts of layers must stay equal."""

    group: ChannelGroup
    kept: int
    reason: str = ""
    asked: int = 0


@dataclass(slots=True, eq=False)
class _Choice:
    """The kept classes of a group, None where no choice is valid; `target`: the requested number."""

    group: ChannelGroup
    target: float
    count: int
    stay: Classes | None = None

    def choose(self, scores: Array, count: int) -> None:
        """Choose about `count` classes by their scores."""
        group, self.count = self.group, count
        self.stay = choose_classes(group, scores[group.classes], count) if count < group.size else group.classes

    @property
    def kept(self) -> int:
        """The number of classes that stay."""
        return self.group.size if self.stay is None else len(self.stay)

    @property
    def excess(self) -> float:
        """Channels removed beyond the requested number."""
        return (self.target - self.kept) * positions_per_class(self.group)


def allocate(
    facts: ChannelFacts, scores: Array, options: Prune, ratio: float, costs: Array | None = None,
    widths: Widths | None = None,
) -> tuple[Array, list[Allocation]]:  # fmt: skip
    """bool[classes], True for kept classes when `ratio` of the channels is removed, and each group's allocation.

    costs: of each class; the ratio is then of costs, and channels are ranked by loss per cost saved. widths: the widths
    before any step, of which ratios are shares; by default the present ones.

    At most `options.round_to` channels beyond the ratio are removed, in all groups together.
    """
    kept = np.ones(facts.count, bool)
    allocations: list[Allocation] = []
    choices: list[_Choice] = []
    for group, target in _targets(facts, scores, options, ratio, costs, widths or Widths(facts)):
        if isinstance(target, Declined):
            allocations.append(Allocation(group, group.size, target.reason, group.size))
            continue
        is_fixed = asked_for(group, options) is not None
        count = int(target) if is_fixed else rounded_width(group, np.floor(target + 0.5), options.round_to)
        choice = _Choice(group, target, count)
        choice.choose(scores, choice.count)
        choices.append(choice)
    _give_back([c for c in choices if asked_for(c.group, options) is None], scores, options.round_to)
    for choice in choices:
        group, stay = choice.group, choice.stay
        if stay is None:
            why = "no choice keeps the parts of its layers equal"
            allocations.append(Allocation(group, group.size, why, choice.count))
            continue
        kept[group.classes] = False
        kept[stay] = True
        is_rounded_up = len(stay) == group.size and choice.target < group.size - 0.5
        reason = f"less than a step of {options.round_to} would go" if is_rounded_up else ""
        allocations.append(Allocation(group, len(stay), reason, choice.count))
    return kept, allocations


def _give_back(choices: list[_Choice], scores: Array, round_to: int) -> None:
    """Keep more classes where rounding to whole heads or equal parts removed most, until the excess is one step."""
    while choices and sum(choice.excess for choice in choices) > round_to:
        most = max(choices, key=lambda choice: choice.excess)
        before = most.kept
        while most.kept <= before and most.count < most.group.size:
            most.choose(scores, rounded_width(most.group, most.count + 1, round_to))


def _targets(
    facts: ChannelFacts, scores: Array, options: Prune, ratio: float, costs: Array | None, widths: Widths
) -> list[tuple[ChannelGroup, float | Declined]]:
    """For each group the number of classes to keep, before rounding to a width."""
    targets: list[tuple[ChannelGroup, float | Declined]] = []
    competing: list[ChannelGroup] = []
    for group in facts.groups:
        own = next((options.ratios[name] for name in names_of(group) if name in options.ratios), None)
        asked = asked_for(group, options)
        try:
            check_prunable(group, options)
        except Declined as declined:
            targets.append((group, declined))
            continue
        if asked is not None:
            targets.append((group, float(asked)))
        elif own is None and options.global_ranking:
            competing.append(group)
        else:
            target = widths.before(group) * (1 - (ratio if own is None else own))
            targets.append((group, min(target, float(group.size))))
    return [*targets, *_global_targets(competing, scores, options, ratio, costs, widths)]


def check_prunable(group: ChannelGroup, options: Prune) -> None:
    """Declined where the options exclude a group."""
    if any(name in options.ignored_layers for name in names_of(group)):
        raise Declined("to be ignored")
    if group.selections and not options.select:
        raise Declined("its layers read what stays for others (select=True lets them read fewer of it)")
    if STATISTICS in group.approximate and not options.statistics:
        raise Declined("a normalisation takes statistics over it (statistics=True removes them all the same)")


def asked_for(group: ChannelGroup, options: Prune) -> int | None:
    """The number of classes of a group to keep by `keep`; None if not named there. OptionError for more than it has."""
    width = positions_per_class(group)
    for name in names_of(group):
        if name in options.keep:
            count = options.keep[name]
            assert isinstance(count, int)  # of one step
            if count > group.size * width:
                raise OptionError(f"prune: keep: {name}: there are {group.size * width} channels, not {count}")
            return max(1, round(count / width))
    return None


def names_of(group: ChannelGroup) -> list[str]:
    """The names of a group in options and reports: of the layers that produce it, or of layers with selections."""
    nodes = [*(layer.node for layer in group.makers), *(selection.node for selection in group.selections)]
    return [name for node in nodes for name in names_of_node(node)]


def names_of_node(node: Node) -> list[str]:
    """The names of a node: its own, its first output's, those of the original nodes it came from."""
    return [name for name in (node.name, node.output.name, *node.origins) if name]


def comparable_scores(group: ChannelGroup, scores: Array, options: Prune) -> Array:
    """f64[group.size]: the scores, if comparable across groups, else their ratios to the group's mean."""
    own: Array = scores[group.classes]
    if options.importance in MEASURED and options.global_ranking:
        return own
    return own / max(float(own.mean()), 1e-30)  # magnitudes of weights, for example, are comparable within a layer only


def _global_targets(
    groups: list[ChannelGroup], scores: Array, options: Prune, ratio: float, costs: Array | None, widths: Widths
) -> list[tuple[ChannelGroup, float]]:
    """Remove the channels with the lowest scores of all groups, except the best of each, the share `least`."""
    if not groups:
        return []
    all_scores, sizes_of, owner, protected, gone = [], [], [], [], 0.0
    for number, group in enumerate(groups):
        own = comparable_scores(group, scores, options)
        least = max(1, int(np.ceil(options.least * widths.before(group))))
        rank = np.argsort(np.argsort(-own, kind="stable"), kind="stable")
        sizes = np.full(group.size, float(positions_per_class(group)))
        if costs is None:
            gone += (widths.before(group) - group.size) * float(sizes[0])
        else:
            sizes = np.maximum(costs[group.classes], 1e-12 * float(costs.max()))
            own = own / sizes
        all_scores.append(own)
        sizes_of.append(sizes)
        owner.append(np.full(group.size, number))
        protected.append(rank < least)
    sizes, owners = np.concatenate(sizes_of), np.concatenate(owner)
    order = np.argsort(np.where(np.concatenate(protected), np.inf, np.concatenate(all_scores)), kind="stable")
    removable = order[~np.concatenate(protected)[order]]
    wanted = ratio * (sizes.sum() + gone) - gone
    until = int(np.searchsorted(np.cumsum(sizes[removable]), wanted + 1e-9, side="right"))
    removed = np.bincount(owners[removable[:until]], minlength=len(groups))
    return [(group, float(group.size - removed[number])) for number, group in enumerate(groups)]
