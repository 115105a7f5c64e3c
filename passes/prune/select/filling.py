"""Spend the budget left by rounding to widths on the channels of the best score per cost."""

from __future__ import annotations

import numpy as np

from ....analysis.channels import ChannelFacts, ChannelGroup
from ....ir import Array
from ..options import Prune
from .allocation import Allocation, comparable_scores, names_of
from .costs import Costs
from .selection import choose_classes, rounded_width


def fill(
    facts: ChannelFacts, scores: Array, options: Prune, costs: Costs, share: float, kept: Array,
    allocations: list[Allocation],
) -> tuple[Array, list[Allocation]]:  # fmt: skip
    """`kept` (bool[classes]) and the allocations, with channels added while at most `share` of the costs remains.

    Each time the group widens, by one step of `options.round_to`, whose added channels have the best score per added
    cost.
    """
    open_to_more = {one.group: one for one in allocations if _competes(one, options)}
    left = costs.share(facts, kept)
    while True:
        best, most = None, 0.0
        for group, one in open_to_more.items():
            wider = _wider(group, scores, options, one.kept, kept)
            cost = 0.0 if wider is None else costs.share(facts, wider) - left
            if wider is None or left + cost > share:
                continue
            gain = float(comparable_scores(group, scores, options)[(wider & ~kept)[group.classes]].sum())
            if best is None or gain / max(cost, 1e-30) > most:
                best, most = (group, wider), gain / max(cost, 1e-30)
        if best is None:
            break
        group, kept = best
        left = costs.share(facts, kept)
        asked = rounded_width(group, open_to_more[group].kept + 1, options.round_to)
        open_to_more[group] = Allocation(group, int(kept[group.classes].sum()), asked=asked)
    return kept, [open_to_more.get(one.group, one) for one in allocations]


def _competes(one: Allocation, options: Prune) -> bool:
    """Whether the group lost channels, and not by its own share or width."""
    has_own = any(name in options.ratios or name in options.keep for name in names_of(one.group))
    return one.kept < one.group.size and not has_own


def _wider(group: ChannelGroup, scores: Array, options: Prune, now: int, kept: Array) -> Array | None:
    """`kept` with the next width of a group; None where there is none."""
    if now >= group.size:
        return None
    stay = choose_classes(group, scores[group.classes], rounded_width(group, now + 1, options.round_to))
    if stay is None or len(stay) <= now:
        return None
    wider = kept.copy()
    wider[group.classes] = False
    wider[np.asarray(stay)] = True
    return wider
