"""The pruning settings to try where the options leave the choice open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...equivalence.feeds import Feeds
from ...ir import Model
from .options import Prune
from .select.costs import cost_of_nodes

STEPS = 4
"""Steps of multi-step attempts (`python -m tests.bench.distillation --ways`)."""
_AFFORDED = 5e10
"""Multiply-accumulates of one run over all samples up to which several ways are tried: about a second of a core; each
way takes some dozen such runs. A choice."""


def attempts(options: Prune, model: Model, feeds: Iterable[Feeds], is_rough: bool, by_cost: bool) -> list[Prune]:
    """Fully specified options, one for each way worth an attempt; the first is for models whose results cannot be
    judged.

    importance "auto": "l2" on made-up feeds (is_rough). Else the immediate error of removing a channel
    ("reconstruction"), which compares across layers; the error left after each layer has adapted ("hessian") where
    each layer loses the same share. Then also a removal's effect on the model's results ("fisher"). Towards a cost
    (by_cost), gradients are recomputed in several steps, and removing the same share of each layer is another attempt.
    """
    steps = options.iterative_steps or 1
    once = [replace(options, iterative_steps=one) for one in dict.fromkeys((steps, 1))]
    if options.importance != "auto":
        return once
    if is_rough:
        return [replace(one, importance="l2") for one in once]
    if not options.global_ranking:
        return [replace(one, importance="hessian") for one in once]
    found = [replace(one, importance="reconstruction") for one in once]
    if _passes(model, feeds) > _AFFORDED:
        return found
    many = replace(options, iterative_steps=options.iterative_steps or STEPS)
    if by_cost:
        found.append(replace(many, importance="fisher"))
        found.append(replace(options, iterative_steps=1, importance="hessian", global_ranking=False))
    else:
        found.append(replace(options, iterative_steps=1, importance="fisher"))
        if options.iterative_steps is None:
            found.append(replace(many, importance="reconstruction"))
    return found


def _passes(model: Model, feeds: Iterable[Feeds]) -> float:
    """Multiply-accumulates of one run over all samples, as if each had the sizes of the first."""
    first, count = None, 0
    for feed in feeds:
        first, count = first or feed, count + 1
    return 0.0 if first is None else count * sum(cost_of_nodes("macs", model, first).values())
