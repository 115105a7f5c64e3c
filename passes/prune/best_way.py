"""Prune a model by a given ratio, by the attempted way with the least error; an executor tries ways in parallel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from ...equivalence.feeds import Feeds
from ...errors import ModelError
from ...ir import Model, Node
from .attempts import attempts
from .exchange import Exchange, at_once, groups_of
from .job import Job, Outcome
from .options import Prune
from .pruned_model import PrunedModel, scores_of
from .refit.held_out import HeldOutError

_ALIKE = 0.02
"""The share of channels within which ways count as having removed equally many: rounding to widths causes such
differences. Reasoned, not tuned."""
_HALF = 2
"""Every second sample judges trades of channels, since many trades are compared: judged by every tenth, the selected
trades moved results on 2,000 other images 3 % further away than before (Fashion CNN at half of its
multiply-accumulates).
"""
_FIRST = 0.2
"""The share of progress reported before layers trade channels: a guess."""


def prune_model(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], *, seed: int = 0,
    reference: Model | None = None, progress: Callable[[float], None] = lambda share: None, is_rough: bool = False,
    costs: Mapping[Node, float] | None = None, executor: Executor | None = None,
) -> PrunedModel:  # fmt: skip
    """Prune a copy of `original` by `ratio`: of its channels, or of the costs of its nodes where these are given.

    reference: the given model, with its BatchNormalizations. is_rough: the feeds are made up. executor: tries ways in
    parallel; the best is then repeated here, so that the model is the same without an executor. Of the ways that the
    options leave open, the one with results nearest to the original's on the samples of `HeldOutError` is taken;
    several steps, only where these leave no more error than one. With `options.exchange` layers then trade channels.
    """
    job = Job(original, ratio, feeds, seed, reference, costs, is_rough)
    if executor is not None and not job.is_light:
        executor = None
    trades = 0 if is_rough else options.exchange or 0
    ways = attempts(options, original, feeds, is_rough, costs is not None)
    judged = trades or (len(ways) > 1 and not is_rough and not options.keep)
    held_out = job.held_out() if judged else HeldOutError(original, ())
    ways = ways if held_out.feeds else ways[:1]
    share = _FIRST if trades else 1.0
    best = _first(job, options, ways, held_out, executor, lambda done: progress(share * done))
    if trades:
        best = _traded(job, options, ways, best, executor, lambda done: progress(share + (1 - share) * done))
    return best


def _first(
    job: Job, options: Prune, ways: Sequence[Prune], held_out: HeldOutError, executor: Executor | None,
    progress: Callable[[float], None],
) -> PrunedModel:  # fmt: skip
    """The model pruned in the best of the ways."""
    tried = 0
    if executor is not None and len(ways) > 1:
        outcomes = []
        for outcome in job.outcomes(executor, ways):
            outcomes.append(outcome)
            progress(len(outcomes) / (len(ways) + 1))
        tried = len(outcomes)
        if outcomes[0] is not None:
            known = [(way, outcome) for way, outcome in zip(ways, outcomes) if outcome is not None]
            ways = [known[_best([outcome for _, outcome in known], job)][0]]
    whole, done = sum(way.iterative_steps or 1 for way in ways), 0
    found: list[PrunedModel] = []
    for way in ways:
        steps = way.iterative_steps or 1

        def tell(share: float, done: int = done, steps: int = steps) -> None:
            progress((tried + (done + share * steps) / whole) / (tried + 1))

        try:
            found.append(job.pruned(way, tell))
        except ModelError:  # a missing gradient fails only attempts that need it
            if options.importance != "auto" or not found:
                raise
        done += steps
    return found[0 if len(found) == 1 else _best([Outcome.of(pruned, held_out) for pruned in found], job)]


def _best(outcomes: Sequence[Outcome], job: Job) -> int:
    """The index of the least error, among outcomes that removed the requested amount, or the largest amount of any."""
    alike = 0 if job.costs is not None else _ALIKE
    most = max(1 - job.ratio, min(one.left for one in outcomes) + alike)
    near = [place for place, one in enumerate(outcomes) if one.left <= most]
    return min(near, key=lambda place: outcomes[place].error)


def _traded(
    job: Job, options: Prune, ways: Sequence[Prune], best: PrunedModel, executor: Executor | None,
    progress: Callable[[float], None],
) -> PrunedModel:  # fmt: skip
    """`best`, or a better model after trading channels between layers, pruned in one step."""
    trades, halves = options.exchange or 0, replace(job, step=_HALF)
    apart, groups = halves.held_out(), groups_of(job.original, best.keep, options)
    if not apart.feeds or not groups:
        return best
    tried = 0

    def outcomes(ways: Sequence[Prune]) -> Iterator[Outcome | None]:
        nonlocal tried
        found = (halves.outcome(one, apart) for one in ways) if executor is None else halves.outcomes(executor, ways)
        for outcome in found:
            tried += 1
            progress(min(1.0, tried / trades))
            yield outcome

    start = at_once(best, groups)
    alone = [replace(start, importance=one) for one in dict.fromkeys(way.importance for way in [start, *ways])]
    first, *others = outcomes([best.options, *alone])
    begun, way = min(zip(others, alone), key=lambda one: math.inf if one[0] is None else one[0].error)
    halves = replace(halves, scores=scores_of(job.original, way, job.feeds, job.seed, job.reference))
    most = max(1 - job.ratio, Outcome.of(best, apart).left)
    found = Exchange(way, groups, most, outcomes, trades).best(best.keep, begun)
    if first is not None and found is not None and found[1].error < first.error:
        best = replace(job, scores=halves.scores).pruned(found[0])
    progress(1.0)
    return best
