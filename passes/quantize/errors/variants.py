"""Variants of a model measured in one session, which reads their differing constants as inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....compress.context import StageContext
from ....compress.stages import session_maker
from ....ir import Array, Model, TensorType
from ....measure import Quality, figures

SAMPLES, WORK, SHORTEST, LONGEST = 4, 2e12, 8, 256
"""Samples for measuring variants, the most multiply-adds of all runs together, and the least and most tokens of each
sample. By counting, SmolLM2-135M gets 17 tokens a sample for 211 variants. A choice."""


class Variants:
    """A model with additional inputs; `usual`: their values in the model that variants are compared with.

    runs: the number of variants, which limits the tokens of prompts so that all runs stay within `WORK`.
    """

    def __init__(self, model: Model, usual: Mapping[str, Array], context: StageContext, runs: int) -> None:
        self._session, self._usual = session_maker("portable")(model), dict(usual)
        work = runs * figures(context.quality.reference).parameters  # multiply-adds per token
        feeds = _short_samples(context, WORK / max(1, work))
        given = _Given(self._session, self._usual)
        self._quality = Quality(context.quality.reference, lambda _: given, feeds, samples=len(feeds))

    def harm(self, changed: Mapping[str, Array]) -> float:
        """The error of a variant's results: the divergence of the next token in nats, elsewhere noise power as a share
        of signal power; 1 where the error is no finite number."""
        found = self._quality.fidelity_of(_Given(self._session, {**self._usual, **changed}))
        harm = 10.0 ** (-found.sqnr_db / 10.0) if found.divergence is None else found.divergence
        return max(float(harm), 0.0) if np.isfinite(harm) else 1.0


def _short_samples(context: StageContext, tokens: float) -> list[dict[str, Any]]:
    """A few samples; for a decoder the first tokens of prompts, about `tokens` in all, as one batch where the batch
    size is free: each run packs weights anew that are inputs."""
    feeds, prompts = context.calibration.first(SAMPLES), context.calibration.prompts
    if prompts is None or not prompts.caches:
        return feeds
    length = int(np.clip(tokens / len(feeds), SHORTEST, LONGEST))
    rows = [np.asarray(feed[prompts.ids])[:1, :length] for feed in feeds]
    types = [v.type for v in context.quality.reference.graph.inputs if v.name == prompts.ids]
    if any(isinstance(t, TensorType) and t.shape and not isinstance(t.shape[0], int) for t in types):
        shortest = min(row.shape[1] for row in rows)
        rows = [np.concatenate([row[:, :shortest] for row in rows])]
    return [prompts.feed(row) for row in rows]


class _Given:
    """A session with additional fixed inputs beside each sample."""

    def __init__(self, session: Any, more: Mapping[str, Array]) -> None:
        self.session, self.more = session, more

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """The results for a sample."""
        return list(self.session.run(names, {**feed, **self.more}))
