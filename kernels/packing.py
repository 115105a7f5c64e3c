"""Weights into panels: the order in which a register tile reads them, and the proof of which groups may go fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GROUP = 4  # bytes of a row that one dot product consumes


@dataclass(frozen=True, slots=True)
class PackedPanel:
    """One panel's weights. `counts` and `depths` are set when some groups are not safe in int16 pairs."""

    weights: npt.NDArray[np.int8]
    counts: npt.NDArray[np.int32] | None = None
    depths: npt.NDArray[np.int32] | None = None


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


def pack_dense(weights: npt.NDArray[np.int8]) -> PackedPanel:
    """[segments, depth, width] → [segments][depth / 4][width][4]."""
    segments, depth, width = weights.shape
    quads = weights.reshape(segments, depth // GROUP, GROUP, width)
    return PackedPanel(np.ascontiguousarray(quads.transpose(0, 1, 3, 2)))


def pack_pairs(weights: npt.NDArray[np.int8]) -> PackedPanel:
    """Weights for vpmaddubsw: dense where every pair sum fits int16 for any u8, else ordered safe groups first.

    A group of four rows of weights is safe when 255 · (sum of the positive of a pair) ≤ 32767 and 255 · (sum of the
    negative) ≥ −32768 in all its channels. Safe groups run in twos; one left over joins the unsafe, which are stored as
    even pairs, then odd pairs, of eight channels each, for vpmaddwd.
    """
    segments, depth, width = weights.shape
    pairs = weights.reshape(segments, depth // GROUP, 2, 2, width).astype(np.int32)
    over = (np.maximum(pairs, 0).sum(3) * 255 > 32767) | (np.minimum(pairs, 0).sum(3) * 255 < -32768)
    unsafe = over.any(axis=(2, 3))
    if not unsafe.any():
        return pack_dense(weights)
    groups = weights.reshape(segments, depth // GROUP, GROUP, width)
    packed, counts, depths = [], np.zeros((segments, 2), np.int32), []
    for segment in range(segments):
        safe = np.flatnonzero(~unsafe[segment])
        slow = np.flatnonzero(unsafe[segment])
        if safe.size % 2:
            safe, slow = safe[:-1], np.sort(np.append(slow, safe[-1]))
        counts[segment] = safe.size // 2, slow.size
        depths.append(np.concatenate([safe, slow]) * GROUP)
        packed.append(groups[segment, safe].transpose(0, 2, 1).reshape(-1))
        halves = groups[segment, slow].reshape(-1, 2, 2, width // 8, 8)  # group, half, byte, vector, lane
        packed.append(halves.transpose(0, 3, 1, 4, 2).reshape(-1))
    return PackedPanel(np.concatenate(packed), counts, np.concatenate(depths).astype(np.int32))
