"""The caller's widths for single groups, and the resulting widths, by layer names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ....analysis.channels import ChannelFacts, ChannelGroup
from ....errors import Declined, OptionError, did_you_mean
from ..options import Prune
from .allocation import Allocation, check_prunable, names_of
from .selection import positions_per_class


def keep_in_step(options: Prune, facts: ChannelFacts, step: int) -> Prune:
    """The options of one step, with one number per name in `keep`. A single number is reached in equal parts."""
    if not options.keep:
        return options
    widths = {name: g.size * positions_per_class(g) for g in facts.groups for name in names_of(g)}
    keep = {}
    for name, count in options.keep.items():
        if not isinstance(count, int):
            keep[name] = count[min(step, len(count) - 1)]
        elif name in widths:
            left = (options.iterative_steps or 1) - step
            keep[name] = count + max(0, widths[name] - count) * (left - 1) // left
    return replace(options, keep=keep)


def check_keep(options: Prune, facts: ChannelFacts) -> None:
    """OptionError for a name that no group has."""
    known = [name for group in facts.groups for name in names_of(group)]
    for name in options.keep:
        if name not in known:
            raise OptionError(f"prune: keep: no channels are those of {name!r}{did_you_mean(name, known)}")


def all_chosen(options: Prune, facts: ChannelFacts) -> bool:
    """Whether `keep` names every group that may lose channels."""
    return bool(options.keep) and all(
        any(name in options.keep for name in names_of(group)) for group in facts.groups if _is_prunable(group, options)
    )


def _is_prunable(group: ChannelGroup, options: Prune) -> bool:
    try:
        check_prunable(group, options)
    except Declined:
        return False
    return True


def widths_of(facts: ChannelFacts) -> dict[str, int | Sequence[int]]:
    """The present channels of all groups: as `keep`, they remove nothing."""
    return dict(kept_channels([Allocation(group, group.size, asked=group.size) for group in facts.groups]))


def kept_channels(allocations: Sequence[Allocation]) -> dict[str, int]:
    """The requested channels of each group, by its first unique name."""
    found: dict[str, int] = {}
    for one in allocations:
        name = next((name for name in names_of(one.group) if name not in found), None)
        if name is not None:
            found[name] = one.asked * positions_per_class(one.group)
    return found


def joined_steps(steps: Sequence[Mapping[str, int]]) -> dict[str, int | Sequence[int]]:
    """The channels after each step; a single number for one step."""
    if len(steps) == 1:
        return dict(steps[0])
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: [step[name] for step in steps if name in step] for name in names}
