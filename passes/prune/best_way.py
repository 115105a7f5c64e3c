"""Prune a model by a given ratio, in the way that leaves the least error of those that are worth an attempt: by an
executor, these are tried side by side."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from ... import onnx_io
from ...equivalence.feeds import Feeds
from ...errors import ModelError
from ...ir import Model, Node
from ...parallel import content, digest_of, ordered
from .attempts import attempts
from .options import Prune
from .pruned_model import PrunedModel, prune_in_steps
from .refit.held_out import HeldOutError

_ALIKE = 0.02
"""The share of the channels within which ways of pruning are held to have removed equally many: rounding to widths
makes such differences. Reasoned, not tuned."""
SENT = 1 << 30
"""Bytes of weights and samples up to which ways travel to workers: a bound on memory, since each worker holds them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a way came to: the share that it left, of the costs or the channels, and its error on samples held out."""

    left: float
    error: float

    @classmethod
    def of(cls, pruned: PrunedModel, held_out: HeldOutError) -> Outcome:
        """That of a pruned model."""
        channels = 1 - pruned.removed / max(pruned.total, 1)
        return cls(channels if pruned.left is None else pruned.left, float(held_out.errors(pruned.model).mean()))


def prune_model(
    original: Model, options: Prune, ratio: float, feeds: Iterable[Feeds], *, seed: int = 0,
    reference: Model | None = None, progress: Callable[[float], None] = lambda share: None, is_rough: bool = False,
    costs: Mapping[Node, float] | None = None, executor: Executor | None = None,
) -> PrunedModel:  # fmt: skip
    """Prune a copy of `original` by `ratio`: of its channels, or of the costs of its nodes where these are given.

    reference: the model as it came, with its BatchNormalizations. is_rough: the feeds are made up. executor: tries ways
    side by side; the best is then made here, so that the model is the same without one. Of the ways that the options
    leave open, that is taken which leaves results nearest to the original's on the samples of `HeldOutError`; several
    steps, only where these leave no more error than one.
    """
    ways = attempts(options, original, feeds, is_rough, costs is not None)
    held_out = HeldOutError(original, feeds if len(ways) > 1 and not is_rough and not options.keep else ())
    ways = ways if held_out.feeds else ways[:1]
    tried = 0
    if executor is not None and len(ways) > 1 and _bytes(original, reference, feeds) <= SENT:
        outcomes = []
        for outcome in _tried_away(executor, original, ways, ratio, feeds, seed, reference, costs):
            outcomes.append(outcome)
            progress(len(outcomes) / (len(ways) + 1))
        tried = len(outcomes)
        if outcomes[0] is not None:
            known = [(way, outcome) for way, outcome in zip(ways, outcomes) if outcome is not None]
            ways = [known[_best([outcome for _, outcome in known], ratio, costs is not None)][0]]
    whole, done = sum(way.iterative_steps or 1 for way in ways), 0
    found: list[PrunedModel] = []
    for way in ways:
        steps = way.iterative_steps or 1

        def tell(share: float, done: int = done, steps: int = steps) -> None:
            progress((tried + (done + share * steps) / whole) / (tried + 1))

        try:
            found.append(prune_in_steps(original, way, ratio, feeds, seed, reference, tell, is_rough, costs))
        except ModelError:  # a node without gradient is in the way of one attempt alone
            if options.importance != "auto" or not found:
                raise
        done += steps
    if len(found) == 1:
        return found[0]
    return found[_best([Outcome.of(pruned, held_out) for pruned in found], ratio, costs is not None)]


def _best(outcomes: Sequence[Outcome], ratio: float, by_cost: bool) -> int:
    """The place of the least error, among those that removed as much as was asked for, or as any did."""
    most = max(1 - ratio, min(one.left for one in outcomes) + (0 if by_cost else _ALIKE))
    near = [place for place, one in enumerate(outcomes) if one.left <= most]
    return min(near, key=lambda place: outcomes[place].error)


def _bytes(original: Model, reference: Model | None, feeds: Iterable[Feeds]) -> int:
    """Bytes of the models' weights and of the samples."""
    models = onnx_io.weight_bytes(original) + (0 if reference is None else onnx_io.weight_bytes(reference))
    return models + sum(np.asarray(array).nbytes for feed in feeds for array in feed.values())


def _tried_away(
    executor: Executor, original: Model, ways: Sequence[Prune], ratio: float, feeds: Iterable[Feeds], seed: int,
    reference: Model | None, costs: Mapping[Node, float] | None,
) -> Iterator[Outcome | None]:  # fmt: skip
    """What each way came to, in order; None for one that needs a gradient that a node does not have."""
    models = [None if one is None else onnx_io.to_proto(one).SerializeToString() for one in (original, reference)]
    by_place = None if costs is None else [costs.get(node) for node in original.graph.walk()]
    data = pickle.dumps((*models, list(feeds), by_place), pickle.HIGHEST_PROTOCOL)
    digest = digest_of(data)
    return ordered(executor, _tried, (((way, ratio, seed, digest), {digest: data}) for way in ways))


def _tried(way: Prune, ratio: float, seed: int, digest: str) -> Outcome | None:
    """On a worker: prune in one way, and judge what comes out."""
    *models, feeds, by_place = pickle.loads(content(digest))
    original, reference = (None if data is None else onnx_io.load(data) for data in models)
    assert original is not None
    costs = None
    if by_place is not None:
        costs = {node: cost for node, cost in zip(original.graph.walk(), by_place) if cost is not None}
    try:
        pruned = prune_in_steps(original, way, ratio, feeds, seed, reference, lambda share: None, False, costs)
    except ModelError:
        return None
    return Outcome.of(pruned, HeldOutError(original, feeds))
