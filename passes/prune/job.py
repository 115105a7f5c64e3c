"""One pruning task, run in several ways: here, or in parallel on workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from ... import onnx_io
from ...equivalence.feeds import Feeds
from ...errors import ModelError
from ...ir import Array, Model, Node
from ...parallel import content, digest_of, ordered
from .options import Prune
from .pruned_model import PrunedModel, prune_in_steps
from .refit.held_out import HeldOutError

SENT = 1 << 30
"""The most bytes of weights and samples sent to workers: a bound on memory, since each worker holds them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a way: the remaining share of the costs or channels, and the error on held-out samples."""

    left: float
    error: float

    @classmethod
    def of(cls, pruned: PrunedModel, held_out: HeldOutError) -> Outcome:
        """The outcome of a pruned model."""
        channels = 1 - pruned.removed / max(pruned.total, 1)
        return cls(channels if pruned.left is None else pruned.left, float(held_out.errors(pruned.model).mean()))


def untold(share: float) -> None:
    """Ignores progress within a part that is reported as one."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Prune a copy of `original` by `ratio`: of its channels, or of the costs of its nodes where these are given.

    reference: the given model, with its BatchNormalizations. is_rough: the feeds are made up. scores: of the first step
    of every way, f64[classes], where known. step: every `step`-th sample is held out of all refits and judges outcomes;
    None for the samples of `HeldOutError`, which refits hold out only where they must.
    """

    original: Model
    ratio: float
    feeds: Iterable[Feeds]
    seed: int = 0
    reference: Model | None = None
    costs: Mapping[Node, float] | None = None
    is_rough: bool = False
    scores: Array | None = None
    step: int | None = None

    def held_out(self) -> HeldOutError:
        """The samples by which outcomes are judged."""
        return HeldOutError(self.original, self.feeds, self.step)

    def pruned(
        self, way: Prune, tell: Callable[[float], None] = untold, apart: HeldOutError | None = None
    ) -> PrunedModel:
        """The model, pruned in one way, no layer of which is refitted on the samples `apart`."""
        return prune_in_steps(
            self.original, way, self.ratio, self.feeds, self.seed, self.reference, tell, self.is_rough, self.costs,
            self.scores, apart,
        )  # fmt: skip

    def outcome(self, way: Prune, held_out: HeldOutError) -> Outcome | None:
        """The outcome of one way; None where it needs a gradient that a node lacks."""
        try:
            pruned = self.pruned(way, apart=None if self.step is None else held_out)
        except ModelError:
            return None
        return Outcome.of(pruned, held_out)

    @property
    def is_light(self) -> bool:
        """Whether weights and samples are small enough to send."""
        models = sum(onnx_io.weight_bytes(one) for one in (self.original, self.reference) if one is not None)
        return models + sum(np.asarray(array).nbytes for feed in self.feeds for array in feed.values()) <= SENT

    def outcomes(self, executor: Executor, ways: Sequence[Prune]) -> Iterator[Outcome | None]:
        """The outcome of each way, in order."""
        models = [onnx_io.to_proto(m).SerializeToString() if m else None for m in (self.original, self.reference)]
        costs = None if self.costs is None else [self.costs.get(node) for node in self.original.graph.walk()]
        parts = (*models, self.ratio, list(self.feeds), self.seed, costs, self.scores, self.step)
        data = pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)
        digest = digest_of(data)
        return ordered(executor, _outcome, (((way, digest), {digest: data}) for way in ways))


def _outcome(way: Prune, digest: str) -> Outcome | None:
    """On a worker: prune in one way, and judge the result."""
    *models, ratio, feeds, seed, by_place, scores, step = pickle.loads(content(digest))
    original, reference = (None if data is None else onnx_io.load(data) for data in models)
    assert original is not None
    costs = None
    if by_place is not None:
        costs = {node: cost for node, cost in zip(original.graph.walk(), by_place) if cost is not None}
    job = Job(original, ratio, feeds, seed, reference, costs, False, scores, step)
    return job.outcome(way, job.held_out())
