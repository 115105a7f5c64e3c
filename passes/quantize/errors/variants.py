"""Variants of a model measured in one session, which reads what differs between them as inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....compress.context import StageContext
from ....compress.stages import session_maker
from ....ir import Array, Model, TensorType
from ....measure import Quality, figures

SAMPLES, WORK, SHORTEST, LONGEST = 4, 2e12, 8, 256
"""Samples by which variants are measured, the multiply-adds that all may take together, and the least and most tokens
of each sample. By count, not measured, SmolLM2-135M gets 17 tokens a sample for 211 variants. A choice."""


class Variants:
    """A model with inputs beside its own; `usual` are their values in the model that variants are compared with.

    runs: how many variants there will be: of prompts so many tokens are read that all of them stay within `WORK`.
    """

    def __init__(self, model: Model, usual: Mapping[str, Array], context: StageContext, runs: int) -> None:
        self._session, self._usual = session_maker("portable")(model), dict(usual)
        work = runs * figures(context.quality.reference).parameters  # multiply-adds a token
        feeds = _short_samples(context, WORK / max(1, work))
        given = _Given(self._session, self._usual)
        self._quality = Quality(context.quality.reference, lambda _: given, feeds, samples=len(feeds))

    def harm(self, changed: Mapping[str, Array]) -> float:
        """How far a variant's results are: the divergence of the next token in nats, elsewhere the power of the noise
        as a share of the signal's; at most 1 where they are no numbers."""
        found = self._quality.fidelity_of(_Given(self._session, {**self._usual, **changed}))
        harm = 10.0 ** (-found.sqnr_db / 10.0) if found.divergence is None else found.divergence
        return max(float(harm), 0.0) if np.isfinite(harm) else 1.0


def _short_samples(context: StageContext, tokens: float) -> list[dict[str, Any]]:
    """A few samples; of prompts of a decoder the first tokens, about `tokens` in all, as one batch where its size is
    free: weights that are inputs are packed anew for each run."""
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
    """A session that is given more beside each sample."""

    def __init__(self, session: Any, more: Mapping[str, Array]) -> None:
        self.session, self.more = session, more

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """The results for a sample."""
        return list(self.session.run(names, {**feed, **self.more}))
