"""The choice of the next token from its logits: the most likely, or sampled at a temperature."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...arguments import check_arguments
from ...errors import OptionError
from ...ir import Array


@dataclass(slots=True)
class Choice:
    """Greedy at a temperature of 0; else sampled from softmax(logits / temperature) by a seed.

    `top_k` samples among that many of the greatest logits. Raises OptionError for invalid numbers.
    """

    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        check_arguments(type(self), {"temperature": self.temperature, "top_k": self.top_k, "seed": self.seed})
        if not 0 <= self.temperature < np.inf:
            raise OptionError(f"temperature must be 0 or a positive number, got {self.temperature!r}")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"top_k must be a positive number, got {self.top_k!r}")
        self._random = np.random.default_rng(self.seed)

    def __call__(self, logits: Array) -> Array:
        """The next token of each row, int64[rows], for logits [rows, words]."""
        if not self.temperature:
            return np.asarray(logits.argmax(axis=-1), np.int64)
        scaled = logits.astype(np.float64) / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = np.partition(scaled, -self.top_k, axis=-1)[:, -self.top_k, None]
            scaled[scaled < least] = -np.inf
        weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True)).cumsum(axis=-1)
        drawn = self._random.random((len(weights), 1)) * weights[:, -1:]
        return np.asarray((weights <= drawn).sum(axis=-1), np.int64)
