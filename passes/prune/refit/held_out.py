"""Error of a model's results against the original's, on samples excluded from refits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ....compress.stages import session_maker
from ....equivalence.feeds import Feeds
from ....ir import Array, Model, Node, Value

_LEAST = 3
"""The fewest held-out samples: a majority of fewer is chance. Reasoned, not tuned."""
_FEW = 40
"""Samples below which every fourth is held out, else every tenth: a choice between data to refit on and to judge by.
`python -m tests.bench.prune_fashion` shows the accuracy of refits."""


class HeldOutError:
    """Compares models by their float results on the samples of indices `samples`.

    These are every fourth of a few samples, every tenth of many, or every `step`-th; none where fewer than three would
    result.
    """

    def __init__(self, original: Model, feeds: Iterable[Feeds], step: int | None = None) -> None:
        count = sum(1 for _ in feeds)
        step = step or (4 if count < _FEW else 10)
        chosen = range(step - 1, count, step)
        self.samples = frozenset(chosen if len(chosen) >= _LEAST else ())
        self.feeds = [feed for number, feed in enumerate(feeds) if number in self.samples]
        self.expected = self._results(original)

    def errors(self, model: Model) -> Array:
        """f64[samples]: squared distance from the original's results, as a share of their energy."""
        return np.array([_distance(a, b) for a, b in zip(self.expected, self._results(model))])

    def why_worse(self, before: Array, after: Array) -> str:
        """Why `after` is worse than `before`, both on average and on most samples; "" where it is not."""
        if not self.feeds or after.mean() <= before.mean() or 2 * (after > before).sum() <= len(before):
            return ""
        return (
            f"refitting was undone: on {len(before)} samples apart it took results from {before.mean():.3g} to "
            f"{after.mean():.3g} of their energy away from the original's"
        )

    def _results(self, model: Model) -> list[list[Array]]:
        if not self.feeds:
            return []
        session = session_maker("onnxruntime")(model)
        return [[np.asarray(array) for array in session.run(None, feed)] for feed in self.feeds]


def _distance(expected: list[Array], results: list[Array]) -> float:
    pairs = [(a, b) for a, b in zip(expected, results) if a.dtype.kind == "f" and a.shape == b.shape]
    energy = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    return sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs) / max(energy, 1e-30)


Inputs = dict[Node, tuple[Value | None, ...]]


def inputs_of(model: Model) -> Inputs:
    """The inputs of every node, from which `restore` undoes a refit."""
    return {node: node.inputs for node in model.graph}


def restore(model: Model, before: Inputs) -> None:
    """Give every node the inputs it had."""
    for node, inputs in before.items():
        if node.inputs != inputs:
            model.graph.set_inputs(node, inputs)
