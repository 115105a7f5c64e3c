"""Encoders of text in the field's words: the cosine of pooled vectors, by which their readers compare texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..calibration.prompts import MASK
from ..ir import Array, Model, TensorType

LEAST = 1e-30
"""The smallest norm of a vector with a direction."""


def embeddings(model: Model, classifications: Collection[int]) -> frozenset[int]:
    """The results with a vector for each token, [B, S, F], of a model that reads whole numbers [B, S]; by index."""
    if not any(isinstance(v.type, TensorType) and v.type.dtype.is_integer and v.type.rank == 2
               for v in model.graph.inputs):  # fmt: skip
        return frozenset()
    return frozenset(
        index
        for index, value in enumerate(model.graph.outputs)
        if index not in classifications
        and isinstance(value.type, TensorType)
        and value.type.rank == 3
        and value.type.dtype.is_float
    )


class PooledVectors:
    """Sums over the texts of all samples."""

    def __init__(self) -> None:
        self.texts = 0
        self.alike = 0.0

    def add(self, reference: Array, result: Array, feed: Mapping[str, Any]) -> None:
        """Vectors [B, S, F] of the reference and of a candidate on one feed, averaged over the tokens that its mask
        keeps; nothing where no input has whole numbers [B, S]. Where they differ in shape, no text is alike. A text of
        which the mask keeps no token, or whose reference is not finite, has no direction, and does not count."""
        sizes = reference.shape[:2]
        read = {name: np.asarray(v) for name, v in feed.items() if np.shape(v) == sizes and reference.size}
        if not any(value.dtype.kind in "iu" for value in read.values()):
            return
        kept = next((value for name, value in read.items() if MASK.search(name)), np.ones(sizes))
        a = _pooled(reference, kept)
        norms = np.linalg.norm(a, axis=1)
        known = np.isfinite(norms) & (norms > LEAST)
        self.texts += int(known.sum())
        if result.shape != reference.shape:
            return
        b = _pooled(result, kept)
        both = norms * np.linalg.norm(b, axis=1)
        cosines = np.einsum("bf,bf->b", a, b)[known] / np.maximum(both[known], LEAST)
        self.alike += float(cosines[np.isfinite(cosines)].sum())

    @property
    def cosine(self) -> float | None:
        """The mean cosine between the reference's vectors and the candidate's; None without any."""
        return self.alike / self.texts if self.texts else None


def _pooled(vectors: Array, kept: Array) -> Array:
    """Sums [B, F] of vectors [B, S, F] over the tokens that are kept [B, S]."""
    summed: Array = np.einsum("bsf,bs->bf", vectors.astype(np.float32), kept.astype(np.float32))
    return summed
