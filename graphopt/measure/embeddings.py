"""Fidelity of text encoders: the cosine between pooled vectors of the reference and of a candidate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..calibration.prompts import MASK
from ..ir import Array, Model, TensorType

LEAST = 1e-30
"""The least norm of a vector for which a cosine is defined."""


def embeddings(model: Model, classifications: Collection[int]) -> frozenset[int]:
    """The results with a vector for each token, [B, S, F], of a model with integer inputs [B, S]; by index."""
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
    """Accumulates cosines over the texts of all samples."""

    def __init__(self) -> None:
        self.texts = 0
        self.alike = 0.0

    def add(self, reference: Array, result: Array, feed: Mapping[str, Any]) -> None:
        """Add vectors [B, S, F] of the reference and of a candidate on one feed, pooled over the tokens that its mask
        keeps; ignored without an integer input [B, S]. Vectors of different shapes count as cosine 0. A text without
        kept tokens, or with a reference that is not finite, has no cosine and is not counted."""
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
        """The mean cosine between the reference's and the candidate's vectors; None without texts."""
        return self.alike / self.texts if self.texts else None


def _pooled(vectors: Array, kept: Array) -> Array:
    """Sums [B, F] of vectors [B, S, F] over the kept tokens [B, S]."""
    summed: Array = np.einsum("bsf,bs->bf", vectors.astype(np.float32), kept.astype(np.float32))
    return summed
