"""How many channels each group loses: the same share of each, or those that are worth least anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ....analysis.channels import STATISTICS, ChannelFacts, ChannelGroup
from ....ir import Array, Node
from ..options import MEASURED, Prune
from .selection import choose, rounded, unit


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What one group keeps: `kept` of its classes; `why` it lost none where it might have."""

    group: ChannelGroup
    kept: int
    why: str = ""


def allocate(facts: ChannelFacts, scores: Array, options: Prune, ratio: float) -> tuple[Array, list[Share]]:
    """bool[classes] of what stays when `ratio` of the channels goes, and what each group keeps."""
    wanted = _wanted(facts, scores, options, ratio)
    kept = np.ones(facts.count, bool)
    shares: list[Share] = []
    for group, keep in wanted:
        if isinstance(keep, str):
            shares.append(Share(group, group.size, keep))
            continue
        count = rounded(group, keep, options.round_to)
        stay = choose(group, scores[group.classes], count) if count < group.size else group.classes
        if stay is None:
            shares.append(Share(group, group.size, "no choice keeps the parts of its layers equal"))
            continue
        kept[group.classes] = False
        kept[stay] = True
        why = "" if len(stay) < group.size else f"no smaller multiple of {options.round_to}"
        shares.append(Share(group, len(stay), why if keep < group.size - 0.5 else ""))
    return kept, shares


def _wanted(facts: ChannelFacts, scores: Array, options: Prune, ratio: float) -> list[tuple[ChannelGroup, float | str]]:
    """For each group how many classes should stay, or why all do."""
    wanted: list[tuple[ChannelGroup, float | str]] = []
    open_groups: list[ChannelGroup] = []
    for group in facts.groups:
        reason = refusal(group, options)
        own = next((options.ratios[n] for n in names_of(group) if n in options.ratios), None)
        if reason:
            wanted.append((group, reason))
        elif own is not None:
            wanted.append((group, np.floor(group.size * (1 - own) + 0.5)))
        elif not options.global_ranking:
            wanted.append((group, np.floor(group.size * (1 - ratio) + 0.5)))
        else:
            open_groups.append(group)
    return [*wanted, *_global(open_groups, scores, options, ratio)]


def refusal(group: ChannelGroup, options: Prune) -> str:
    """Why a group is not touched; "" if it may be."""
    if any(name in options.ignored_layers for name in names_of(group)):
        return "to be ignored"
    if group.selections and not options.select:
        return "its layers read what stays for others (select=True lets them read fewer of it)"
    if STATISTICS in group.approximate and not options.statistics:
        return "a normalisation takes statistics over it (statistics=True removes them all the same)"
    return ""


def names_of(group: ChannelGroup) -> Iterable[str]:
    """The names of the layers that make a group's channels, or pick them, those of the original included."""
    nodes = [*(layer.node for layer in group.makers), *(selection.node for selection in group.selections)]
    return [name for node in nodes for name in names_of_node(node)]


def names_of_node(node: Node) -> list[str]:
    """How a user may name a node: its name, its first output's, those of the nodes it came from."""
    return [name for name in (node.name, node.output.name, *node.origins) if name]


def _global(
    groups: list[ChannelGroup], scores: Array, options: Prune, ratio: float
) -> list[tuple[ChannelGroup, float | str]]:
    """The channels worth least of all groups go, but for the best of each group, of which `least` stay."""
    if not groups:
        return []
    worth, width, owner, spared = [], [], [], []
    for number, group in enumerate(groups):
        own = scores[group.classes]
        if options.importance not in MEASURED:  # sizes of weights mean something within a layer only
            own = own / max(float(own.mean()), 1e-30)
        least = max(1, int(np.ceil(options.least * group.size)))
        rank = np.argsort(np.argsort(-own, kind="stable"), kind="stable")
        worth.append(own)
        width.append(np.full(group.size, float(unit(group))))
        owner.append(np.full(group.size, number))
        spared.append(rank < least)
    widths, owners = np.concatenate(width), np.concatenate(owner)
    order = np.argsort(np.where(np.concatenate(spared), np.inf, np.concatenate(worth)), kind="stable")
    removable = order[~np.concatenate(spared)[order]]
    until = int(np.searchsorted(np.cumsum(widths[removable]), ratio * widths.sum() + 1e-9, side="right"))
    gone = np.bincount(owners[removable[:until]], minlength=len(groups))
    return [(group, float(group.size - gone[number])) for number, group in enumerate(groups)]
