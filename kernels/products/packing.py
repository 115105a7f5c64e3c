"""Weights as planes of s8, and the proof of which groups of a panel are safe for vpmaddubsw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.memory import Array

GROUP = 4  # bytes of a row that one dot product consumes
_MOST_POSITIVE, _MOST_NEGATIVE = 32767 // 255, -(32768 // 255)


def whole_quads(depth: int, sums: int) -> int:
    """Groups of four depths, rounded up to a multiple of 2, or of 4 with fewer than eight independent sums."""
    quads = -(-depth // GROUP)
    return quads + -quads % (4 if sums < 8 else 2)


@dataclass(frozen=True, slots=True)
class Split:
    """A panel, safe groups first: weights; counts by segment of safe pairs and of unsafe groups; depths of groups."""

    weights: npt.NDArray[np.int8]
    counts: npt.NDArray[np.int32]
    depths: npt.NDArray[np.int32]


def split_planes(weights: Array) -> npt.NDArray[np.int8]:
    """Integers of any size as a sum of s8 planes, stacked in front: one plane for s8, two or three for u8 less a zero.

    Shape [...] → [planes, ...]; the product with each plane is added, so the result stays exact.
    """
    rest = np.asarray(weights, np.int32)
    planes: list[npt.NDArray[np.int8]] = []
    while not planes or rest.any():
        plane = np.clip(rest, -128, 127)
        planes.append(plane.astype(np.int8))
        rest = rest - plane
    return np.stack(planes)


def split_unsafe(dense: npt.NDArray[np.int8]) -> Split | None:
    """Order a panel for vpmaddubsw if some pair sum could leave int16; None if none can, for any u8.

    dense: [segments, quads, width, 4]. A group of four rows of weights is safe when 255 · (sum of the positive of a
    pair) ≤ 32767 and 255 · (sum of the negative) ≥ −32768 in all its channels. Safe groups run in twos; one left over
    joins the unsafe, which are stored as even pairs, then odd pairs, of eight channels each, for vpmaddwd.
    """
    segments, _, width, _ = dense.shape
    pairs = dense.reshape(segments, -1, width, 2, 2)
    positive: Array = np.maximum(pairs, 0).sum(axis=4, dtype=np.int16)
    negative: Array = np.minimum(pairs, 0).sum(axis=4, dtype=np.int16)
    unsafe = np.any((positive > _MOST_POSITIVE) | (negative < _MOST_NEGATIVE), axis=(2, 3))
    if not unsafe.any():
        return None
    packed, counts, depths = [], np.zeros((segments, 2), np.int32), []
    for segment in range(segments):
        safe = np.flatnonzero(~unsafe[segment])
        slow = np.flatnonzero(unsafe[segment])
        if safe.size % 2:
            safe, slow = safe[:-1], np.sort(np.append(slow, safe[-1]))
        counts[segment] = safe.size // 2, slow.size
        depths.append(np.concatenate([safe, slow]) * GROUP)
        packed.append(dense[segment, safe].reshape(-1))
        halves = dense[segment, slow].reshape(-1, width // 8, 8, 2, 2)  # group, vector, lane, half, byte
        packed.append(halves.transpose(0, 1, 3, 2, 4).reshape(-1))
    return Split(np.concatenate(packed), counts, np.concatenate(depths).astype(np.int32))
