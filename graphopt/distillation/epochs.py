"""Reshuffled, augmented batches in every epoch: the teacher labels the augmented inputs, so that few samples
suffice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ir import Array
from .samples import Batch, Row, Samples

SHIFTED = 14
"""Images are shifted by at most size / SHIFTED: 2 of 28 pixels (`python -m tests.bench.distillation --sweep`)."""
WHOLE = 1 / 3
"""The least share of uncombined rows where labels are learnt: a choice."""


@dataclass(frozen=True, slots=True)
class Variety:
    """Augmentation of inputs. mixing, patches: shares of rows combined with another row, as a whole (mixup) and in a
    rectangle of images (CutMix). shifts, mirrors: of images."""

    mixing: float = 0.0
    patches: float = 0.0
    shifts: bool = False
    mirrors: bool = False

    def for_samples(self, samples: Samples) -> Variety:
        """The augmentation valid for these samples. Combined rows have no label: with class labels at least `WHOLE` of
        the rows stay uncombined, with other labels all. Images with labels other than one class each are not moved:
        their labels would have to move, too."""
        arrays = [array for array in samples.feeds[0].values() if array.ndim]
        mixable = samples.are_mixable and all(a.dtype.kind in "iu" for a in samples.labels.values())
        share = 1.0 if not samples.labels else min(1.0, (1 - WHOLE) / max(self.mixing + self.patches, WHOLE))
        movable = samples.are_mixable and all(a.ndim == 1 and a.dtype.kind in "iub" for a in samples.labels.values())
        has_images = any(map(is_image, arrays))
        return Variety(
            share * self.mixing if mixable else 0.0,
            share * self.patches if mixable and all(map(is_image, arrays)) else 0.0,
            self.shifts and movable and has_images, self.mirrors and movable and has_images,
        )  # fmt: skip


class Epochs:
    """Batches as a function of the step number alone, so that a run resumes anywhere."""

    def __init__(self, samples: Samples, size: int, seed: int, variety: Variety) -> None:
        self.samples, self.seed = samples, seed
        self.size = size if samples.are_rows else 1
        self.variety = variety.for_samples(samples)
        self.steps = sum(max(1, len(rows) // self.size) for rows in samples.groups.values())
        self._epoch, self._order = -1, list[list[Row]]()

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        batch = self.samples.batch(self._order[place])
        rng = np.random.default_rng([self.seed, 1, step])
        if self.variety.mirrors:
            batch = mirrored(batch, rng.random(len(batch.rows)) < 0.5)
        if self.variety.shifts:
            batch = _shifted(batch, rng)
        return _combined(batch, self.variety, rng)

    def _shuffled(self, epoch: int) -> list[list[Row]]:
        """An epoch's shuffled batches: full ones alone where a group fills one; leftover rows enter other epochs."""
        rng = np.random.default_rng([self.seed, 0, epoch])
        batches: list[list[Row]] = []
        for rows in self.samples.groups.values():
            order = [rows[i] for i in rng.permutation(len(rows))]
            batches += [order[i * self.size : (i + 1) * self.size] for i in range(max(1, len(rows) // self.size))]
        return [batches[i] for i in rng.permutation(len(batches))]


def is_image(array: Array) -> bool:
    """Whether an array holds gray or color images [N, C, H, W] large enough to shift."""
    return array.ndim == 4 and array.shape[1] in (1, 3, 4) and min(array.shape[2:]) >= SHIFTED


def mirrored(batch: Batch, chosen: Array) -> Batch:
    """A batch with the images of the chosen rows, bool[rows], mirrored left to right."""
    feeds = {
        name: np.where(chosen[:, None, None, None], array[..., ::-1], array) if is_image(array) else array
        for name, array in batch.feeds.items()
    }
    return Batch(feeds, batch.rows, True)


def _shifted(batch: Batch, rng: np.random.Generator) -> Batch:
    """A batch with each image shifted by up to a fourteenth of its size; border pixels are repeated."""
    feeds = dict(batch.feeds)
    for name, array in batch.feeds.items():
        if not is_image(array):
            continue
        reach = [size // SHIFTED for size in array.shape[2:]]
        moved = np.empty_like(array)
        for i, image in enumerate(array):
            down, right = (int(rng.integers(-far, far + 1)) for far in reach)
            rows = np.clip(np.arange(array.shape[2]) + down, 0, array.shape[2] - 1)
            columns = np.clip(np.arange(array.shape[3]) + right, 0, array.shape[3] - 1)
            moved[i] = image[:, rows][:, :, columns]
        feeds[name] = moved
    return Batch(feeds, batch.rows, True)


def _combined(batch: Batch, variety: Variety, rng: np.random.Generator) -> Batch:
    """x ← λ x + (1 − λ) x' for some rows, x' being another row of the batch: λ is uniform, or 0 in a rectangle of the
    image and 1 beside it.

    Partners of the same teacher class are no better: divergence 0.0105 either way on 2,000 separate images (Fashion CNN
    at half of its multiply-accumulates, 1,500 steps).
    """
    count = len(batch.rows)
    drawn, partner, share = rng.random(count), rng.permutation(count), rng.random(count)
    place = rng.random((count, 2))
    is_patched = drawn < variety.patches
    is_mixed = ~is_patched & (drawn < variety.patches + variety.mixing)
    if count < 2 or not (is_patched | is_mixed).any():
        return batch
    feeds = {}
    for name, array in batch.feeds.items():
        kept = np.where(is_mixed, share, 1.0).reshape(-1, *[1] * (array.ndim - 1))
        if is_patched.any():
            kept = np.tile(kept, (1, 1, *array.shape[2:]))
            for i in np.flatnonzero(is_patched):
                kept[i, 0][_rectangle(array.shape[2:], share[i], place[i])] = 0
        by = kept.astype(array.dtype)
        feeds[name] = array * by + array[partner] * (1 - by)
    return Batch(feeds, batch.rows, True, tuple(np.flatnonzero(is_patched | is_mixed).tolist()))


def _rectangle(image: tuple[int, ...], area: float, place: Array) -> tuple[slice, ...]:
    """Row and column slices covering the fraction `area` of an image [H, W], in its proportions (Yun et al. 2019,
    "CutMix", arXiv 1905.04899). place: f64[2], 0 for the first of all places, 1 for the last."""
    sizes = [max(1, round(whole * math.sqrt(area))) for whole in image]
    firsts = [int(at * (whole - size + 1)) for at, whole, size in zip(place, image, sizes)]
    return tuple(slice(first, first + size) for first, size in zip(firsts, sizes))
