"""Fidelity of language models: divergence of the next token's distribution, and perplexity of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..calibration.prompts import TOKENS
from ..ir import Array, Model, TensorType
from .classes import PRODUCTS

ROWS = 64
"""Positions compared at a time: with a vocabulary of 250,000 tokens 64 MB. A bound on memory."""


def next_tokens(model: Model, classifications: Mapping[int, str]) -> frozenset[int]:
    """The results with a score for each token of a vocabulary at each position, [B, S, V], by index."""
    return frozenset(
        index
        for index, op in classifications.items()
        if op in PRODUCTS and isinstance(type := model.graph.outputs[index].type, TensorType) and type.rank == 3
    )


class TokenScores:
    """Accumulates divergence and likelihood over the positions of all samples."""

    def __init__(self) -> None:
        self.rows = self.predicted = 0
        self.diverged = self.before = self.after = 0.0

    def add(self, reference: Array, result: Array, feed: Mapping[str, Any]) -> None:
        """Add scores [B, S, V] of the reference and of a candidate on one feed; different shapes count as infinite."""
        if reference.size == 0:
            return
        if reference.shape != result.shape:
            self.rows, self.diverged = self.rows + 1, math.inf
            return
        following = _following(reference, feed)
        flat = (array.reshape(-1, array.shape[-1]) for array in (reference, result))
        for a, b, tokens in zip(*(_parts(array) for array in flat), _parts(following)):
            p, q = _log_softmax(a), _log_softmax(b)
            self.diverged += float(np.einsum("rv,rv->", np.exp(p), p - q))
            self.rows += len(a)
            known = np.flatnonzero(tokens >= 0)
            self.before -= float(p[known, tokens[known]].sum())
            self.after -= float(q[known, tokens[known]].sum())
            self.predicted += known.size

    @property
    def divergence(self) -> float | None:
        """The mean KL(reference ‖ candidate) in nats; None without scores."""
        return self.diverged / self.rows if self.rows else None

    @property
    def perplexity(self) -> tuple[float, float] | None:
        """exp of the mean negative log-likelihood of the next tokens, by reference and candidate, or None."""
        if not self.predicted:
            return None
        most = 700.0  # exp of more overflows a double
        before, after = (math.exp(min(total / self.predicted, most)) for total in (self.before, self.after))
        return before, after


def _following(reference: Array, feed: Mapping[str, Any]) -> Array:
    """The next token of each position, int64 [B · S]; −1 at the end, or where tokens are no input."""
    rows, length, count = reference.shape
    none = np.full((rows, 1), -1)
    for name, value in feed.items():
        if TOKENS.search(name) and np.shape(value) == (rows, length) and np.max(value) < count:
            return np.concatenate([np.asarray(value)[:, 1:], none], axis=1).reshape(-1)
    return np.full(rows * length, -1)


def _parts(array: Array) -> list[Array]:
    return [array[at : at + ROWS] for at in range(0, len(array), ROWS)]


def _log_softmax(scores: Array) -> Array:
    scores = scores.astype(np.float32)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return np.asarray(scores)
