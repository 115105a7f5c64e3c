"""Whether recovery helped: how far results are from the original's on samples that no layer was refitted on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ....ir import Array, Model, Node, Value
from ....measure import ort_session

Feeds = dict[str, Any]

_LEAST = 3
"""Samples that can judge: fewer would do so by chance."""


class Judge:
    """Compares models by their float results on some of the samples, `apart`, which nothing is refitted on: every
    fourth of a few, every tenth of many; none where that would be fewer than three."""

    def __init__(self, original: Model, feeds: Iterable[Feeds]) -> None:
        samples = sum(1 for _ in feeds)
        step = 4 if samples < 40 else 10
        chosen = range(step - 1, samples, step)
        self.apart = frozenset(chosen if len(chosen) >= _LEAST else ())
        self.feeds = [feed for number, feed in enumerate(feeds) if number in self.apart]
        self.wanted = [_results(session, feed) for session in self._sessions(original) for feed in self.feeds]

    def errors(self, model: Model) -> Array:
        """f64[samples]: squared distance from the original's results, as a share of their energy."""
        made = [_results(session, feed) for session in self._sessions(model) for feed in self.feeds]
        return np.array([_distance(a, b) for a, b in zip(self.wanted, made)])

    def finds_worse(self, before: Array, after: Array) -> str:
        """Why `after` is worse, on the whole and on most samples; "" where it is not."""
        if not self.feeds or after.mean() <= before.mean() or 2 * (after > before).sum() <= len(before):
            return ""
        return (
            f"refitting was undone: on {len(before)} samples apart it took results from {before.mean():.3g} to "
            f"{after.mean():.3g} of their energy away from the original's"
        )

    def _sessions(self, model: Model) -> list[Any]:
        return [ort_session(model, threads=0)] if self.feeds else []


def _results(session: Any, feed: Feeds) -> list[Array]:
    return [np.asarray(array) for array in session.run(None, feed)]


def _distance(wanted: list[Array], made: list[Array]) -> float:
    pairs = [(a, b) for a, b in zip(wanted, made) if a.dtype.kind == "f" and a.shape == b.shape]
    energy = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    return sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs) / max(energy, 1e-30)


Inputs = dict[Node, tuple[Value | None, ...]]


def inputs_of(model: Model) -> Inputs:
    """What every node reads: what `restore` needs to undo a refit."""
    return {node: node.inputs for node in model.graph}


def restore(model: Model, before: Inputs) -> None:
    """Let every node read what it read."""
    for node, inputs in before.items():
        if node.inputs != inputs:
            model.graph.set_inputs(node, inputs)
