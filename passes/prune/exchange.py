"""Trade channels between layers: a few of one for a few of others, while results move closer to the original's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from ...analysis.channels import find_channels
from ...distillation.options import STEPS, Distil
from ...errors import Declined
from ...ir import Model, clone_model
from .cut.remove import unshare
from .job import Outcome
from .options import Prune
from .pruned_model import PrunedModel
from .select.allocation import check_prunable, names_of
from .select.selection import positions_per_class

_TRIED, _PATIENCE = 6, 3
"""Trades tried at once, those of the largest predicted gain, and the rounds without a better one that end the search:
choices that allow for errors of single-step slopes. Workers try trades in parallel."""
_COARSE = 8
"""The first trades move 1 / `_COARSE` of a group's channels; trades of single steps follow. A choice."""
_CONSIDERED = 8
"""Groups considered for widening, and for paying, in one round: trades combine up to two of each."""
_TIMES = 4
"""The most steps that one layer pays for a step of another: slopes hold for one step. A choice."""
_MOST, _STEPS = 120, 80
"""The most prunings beside a training, and the training steps per pruning. With 512 samples each pruning takes as long
as 15 steps (Fashion CNN, 0.6 s), so that trades add at most a fifth; there the search ends by itself after 60 to 90."""
_SLACK = 1e-9
"""Tolerance of sums of shares, for rounding."""

Widths = tuple[int, ...]
TryWays = Callable[[Sequence[Prune]], Iterable[Outcome | None]]


@dataclass(frozen=True, slots=True)
class Group:
    """A channel group: its name in `Prune.keep`, its full width and its step of removal, both in channels."""

    name: str
    full: int
    step: int

    @property
    def coarse(self) -> int:
        """The step of the first trades."""
        return max(1, self.full // _COARSE // self.step) * self.step


def affordable(recover: Distil) -> int:
    """The number of prunings that take a small share of a training; 0 for epochs, whose steps are unknown."""
    return min(_MOST, (recover.steps or STEPS) // _STEPS) if recover.epochs is None else 0


def groups_of(original: Model, keep: Mapping[str, int | Sequence[int]], options: Prune) -> list[Group]:
    """The groups named in `keep` whose widths the caller did not fix."""
    model = clone_model(original)
    unshare(model)
    found = []
    for group in find_channels(model).groups:
        names = names_of(group)
        name = next((name for name in names if name in keep), None)
        try:
            check_prunable(group, options)
        except Declined:
            continue
        if name is None or any(one in options.keep or one in options.ratios for one in names):
            continue
        width = positions_per_class(group)
        found.append(Group(name, group.size * width, math.ceil(options.round_to / width) * width))
    return found


def at_once(pruned: PrunedModel, groups: Sequence[Group]) -> Prune:
    """The way that prunes all groups to their present widths in one step."""
    keep = {group.name: _last(pruned.keep[group.name]) for group in groups}
    return replace(pruned.options, keep={**pruned.options.keep, **keep}, iterative_steps=1)


@dataclass(slots=True)
class Exchange:
    """A local search over widths, as NetAdapt's over single layers (Yang et al. 2018, arXiv 1804.03230), at fixed cost:
    the gain or loss of a step of each group is measured, trades are predicted from these slopes, and the best are
    tried.

    way: of the start, in one step. most: the share of the costs or channels that may stay. try_ways: prunes, at most
    `evaluations` times.
    """

    way: Prune
    groups: Sequence[Group]
    most: float
    try_ways: TryWays
    evaluations: int
    _known: dict[Widths, Outcome] = field(default_factory=dict)
    _steps: Sequence[int] = ()

    def best(
        self, keep: Mapping[str, int | Sequence[int]], start: Outcome | None = None
    ) -> tuple[Prune, Outcome] | None:
        """The way to the widths of least error, and its outcome; None where the start cannot be reached in one step
        within the budget. start: the outcome of the widths `keep`, where known."""
        now = tuple(_last(keep[group.name]) for group in self.groups)
        if start is None:
            self._try([now])
        else:
            self._known[now] = start
        outcome = self._known.get(now)
        if outcome is None or outcome.left > self.most:
            return None
        for is_fine in (False, True):
            self._steps = [group.step if is_fine else group.coarse for group in self.groups]
            slopes, failed = self._slopes(now), 0
            while len(self._known) < self.evaluations and failed < _PATIENCE:
                trades = [one for one in self._trades(now, slopes, outcome.left) if one not in self._known][:_TRIED]
                self._try(trades)
                within = (widths for widths, found in self._known.items() if found.left <= self.most)
                best = min(within, key=lambda widths: self._known[widths].error)
                if best == now and not trades:
                    break
                if best != now:
                    now, outcome, failed = best, self._known[best], 0
                    slopes = self._slopes(now)
                else:
                    failed += 1
        return self._way(now), outcome

    def _way(self, widths: Widths) -> Prune:
        keep = {group.name: width for group, width in zip(self.groups, widths)}
        return replace(self.way, keep={**self.way.keep, **keep}, iterative_steps=1)

    def _try(self, wanted: Iterable[Widths]) -> None:
        """Prune to widths without a known outcome, up to `evaluations`."""
        new = list(dict.fromkeys(one for one in wanted if one not in self._known))
        new = new[: self.evaluations - len(self._known)]
        for widths, outcome in zip(new, self.try_ways([self._way(one) for one in new])):
            self._known[widths] = outcome or Outcome(math.inf, math.inf)

    def _slopes(self, now: Widths) -> list[_Slopes]:
        """The slopes of each group at these widths."""
        both = [(self._moved(now, {i: 1}), self._moved(now, {i: -1})) for i in range(len(self.groups))]
        self._try(one for pair in both for one in pair if one is not None)
        here = self._known[now]
        return [_Slopes(*(self._slope(here, one) for one in pair)) for pair in both]

    def _slope(self, here: Outcome, there: Widths | None) -> Outcome | None:
        outcome = None if there is None else self._known.get(there)
        if outcome is None or not math.isfinite(outcome.error):
            return None
        return Outcome(outcome.left - here.left, outcome.error - here.error)

    def _moved(self, now: Widths, steps: Mapping[int, int]) -> Widths | None:
        """The widths after `steps`; None where a group has no such width."""
        found = list(now)
        for i, count in steps.items():
            group, step = self.groups[i], self._steps[i]
            least = max(min(group.step, group.full), math.ceil(self.way.least * group.full))
            wide = min(group.full, now[i] + count * step)
            if wide == now[i] or wide < least:
                return None
            found[i] = wide
        return tuple(found)

    def _trades(self, now: Widths, slopes: Sequence[_Slopes], left: float) -> list[Widths]:
        """Widths predicted to meet the budget, least predicted error first: one or two groups widen, and one or two
        others narrow to pay for it."""
        ups = _best_value({i: slope.up for i, slope in enumerate(slopes)})
        found: dict[Widths, float] = {}
        for wider in [*((i,) for i in ups), *combinations(ups, 2)]:
            gains = [slope for i in wider if (slope := slopes[i].up) is not None]
            over = left + sum(gain.left for gain in gains) - self.most
            error = sum(gain.error for gain in gains)
            for change, cost in self._payments(slopes, wider, over):
                widths = self._moved(now, {**dict.fromkeys(wider, 1), **change})
                if widths is not None:
                    found[widths] = error + cost
        return sorted(found, key=lambda widths: found[widths])

    def _payments(
        self, slopes: Sequence[_Slopes], wider: Sequence[int], over: float
    ) -> Iterator[tuple[dict[int, int], float]]:
        """Steps of one or two groups that remove the excess over the budget, and the error they cost; no steps without
        an excess."""
        if over <= _SLACK:
            yield {}, 0.0
            return
        downs = {i: slope.down for i, slope in enumerate(slopes) if i not in wider}
        payers = [(i, down) for i in _best_value(downs) if (down := downs[i]) is not None and down.left < 0]
        for i, slope in payers:
            times = math.ceil(over / -slope.left - _SLACK)
            if times <= _TIMES:
                yield {i: -times}, times * slope.error
            for first in range(1, min(times, _TIMES + 1)):
                for j, other in payers:
                    rest = math.ceil((over + first * slope.left) / -other.left - _SLACK)
                    if j != i and rest <= _TIMES:
                        yield {i: -first, j: -rest}, first * slope.error + rest * other.error


@dataclass(frozen=True, slots=True)
class _Slopes:
    """The change of the remaining share and of the error by a group's step up or down; None without such a step."""

    up: Outcome | None
    down: Outcome | None


def _best_value(slopes: Mapping[int, Outcome | None]) -> list[int]:
    """The groups whose steps gain most, or lose least, relative to their change of the budget."""
    known = {i: slope.error / max(abs(slope.left), _SLACK) for i, slope in slopes.items() if slope is not None}
    return sorted(known, key=lambda i: known[i])[:_CONSIDERED]


def _last(count: int | Sequence[int]) -> int:
    return count if isinstance(count, int) else count[-1]
