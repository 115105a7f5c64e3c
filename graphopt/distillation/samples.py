"""The samples of a run: rows that are batched anew in every epoch, and rows held out, which no step sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..equivalence.feeds import Feeds
from ..errors import InputError, OptionError
from ..ir import Array, Model, TensorType

LEAST = 8
"""Samples below which nothing is learnt: with the default share, one is held out of eight. A choice."""
SHIFTED = 14
"""Images are shifted by up to their size over this: 2 of 28 pixels (`python -m tests.bench.distillation --sweep`)."""
Row = tuple[int, int]
"""The number of a feed, and a row of it; -1 for all of it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. feeds: the model's inputs; rows: where they come from; is_mixed: they are combinations of two rows."""

    feeds: Feeds
    rows: tuple[Row, ...]
    is_mixed: bool = False


class Samples:
    """All samples, in memory, each a row where the model leaves its batch open, else a whole feed.

    held: the rows that are held out; groups: all others, those of equal shapes together. labels: arrays by the name
    of the result they are for, one row a sample.
    """

    def __init__(
        self, feeds: Iterable[Feeds], model: Model, holdout: float, labels: Mapping[str, Array] | None = None
    ) -> None:
        self.feeds = [{name: np.asarray(array) for name, array in feed.items()} for feed in feeds]
        self.are_rows = _is_open(model) and all(_rows(feed) > 0 for feed in self.feeds)
        rows: list[Row] = []
        for number, feed in enumerate(self.feeds):
            rows += [(number, row) for row in range(_rows(feed))] if self.are_rows else [(number, -1)]
        if len(rows) < LEAST:
            raise InputError(f"distil: {len(rows)} samples are too few to learn from: give {LEAST} or more")
        self.count = len(rows)
        self.labels = {name: np.asarray(array) for name, array in (labels or {}).items()}
        for name, array in self.labels.items():
            if not self.are_rows:
                raise OptionError(f"distil: labels of {name!r} need a model whose batch is open")
            if len(array) != len(rows):
                raise InputError(f"distil: {len(array)} labels of {name!r} for {len(rows)} samples")
        self._place = {row: place for place, row in enumerate(rows)}
        step = max(2, round(1 / holdout))
        chosen = set(range(step - 1, len(rows), step)) or {len(rows) - 1}
        self.held = [row for place, row in enumerate(rows) if place in chosen]
        self.groups: dict[tuple[object, ...], list[Row]] = {}
        for place, row in enumerate(rows):
            if place not in chosen:
                self.groups.setdefault(self._key(row), []).append(row)
        self.are_mixable = self.are_rows and all(
            array.dtype.kind == "f" and array.ndim > 1 for array in self.feeds[0].values()
        )

    def batches_of(self, rows: Iterable[Row], size: int) -> list[Batch]:
        """These rows in batches of equal shapes, in order."""
        groups: dict[tuple[object, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(self._key(row), []).append(row)
        size = size if self.are_rows else 1
        return [self.batch(group[i : i + size]) for group in groups.values() for i in range(0, len(group), size)]

    def batch(self, rows: list[Row]) -> Batch:
        """These rows together."""
        number, row = rows[0]
        if row < 0:
            return Batch(self.feeds[number], (rows[0],))
        feeds = {
            name: np.stack([self.feeds[n][name][r] for n, r in rows]) if array.ndim else array
            for name, array in self.feeds[number].items()
        }
        return Batch(feeds, tuple(rows))

    def labels_of(self, batch: Batch) -> dict[str, Array]:
        """The labels of a batch."""
        places = [self._place[row] for row in batch.rows]
        return {name: array[places] for name, array in self.labels.items()}

    def digest(self) -> str:
        """Of all samples and labels."""
        found = hashlib.sha256()
        for arrays in (*self.feeds, self.labels):
            for name, array in arrays.items():
                found.update(f"{name} {array.dtype} {array.shape} ".encode())
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def _key(self, row: Row) -> tuple[object, ...]:
        """What rows of one batch share: the shapes of each, and scalars. A whole feed stands alone."""
        number, index = row
        if index < 0:
            return (number,)
        feed = self.feeds[number]
        return tuple((n, a.shape[1:] if a.ndim else a.tobytes(), a.dtype.str) for n, a in feed.items())


class Epochs:
    """Batches by the number of the step alone, so that a run resumes anywhere."""

    def __init__(self, samples: Samples, size: int, seed: int, mixing: float, shifts: bool = False) -> None:
        self.samples, self.seed = samples, seed
        self.size = size if samples.are_rows else 1
        self.mixing = mixing if samples.are_mixable else 0.0
        self.shifts = shifts and samples.are_mixable and any(map(_is_image, samples.feeds[0].values()))
        self.steps = sum(max(1, len(rows) // self.size) for rows in samples.groups.values())
        self._epoch, self._order = -1, list[list[Row]]()

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        batch = self.samples.batch(self._order[place])
        rng = np.random.default_rng([self.seed, 1, step])
        if self.shifts:
            batch = _shifted(batch, rng)
        if rng.random() >= self.mixing or len(batch.rows) < 2:
            return batch
        return _mixed(batch, rng)

    def _shuffled(self, epoch: int) -> list[list[Row]]:
        """Full batches alone where a group has one; what is left over takes part in another epoch."""
        rng = np.random.default_rng([self.seed, 0, epoch])
        batches: list[list[Row]] = []
        for rows in self.samples.groups.values():
            order = [rows[i] for i in rng.permutation(len(rows))]
            batches += [order[i * self.size : (i + 1) * self.size] for i in range(max(1, len(rows) // self.size))]
        return [batches[i] for i in rng.permutation(len(batches))]


def _is_image(array: Array) -> bool:
    """Planes [N, C, H, W] of grey levels or colours, large enough to be shifted."""
    return array.ndim == 4 and array.shape[1] in (1, 3, 4) and min(array.shape[2:]) >= SHIFTED


def _shifted(batch: Batch, rng: np.random.Generator) -> Batch:
    """Images moved by up to a fourteenth of their size, each by itself; what enters at the border repeats it."""
    feeds = dict(batch.feeds)
    for name, array in batch.feeds.items():
        if not _is_image(array):
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


def _mixed(batch: Batch, rng: np.random.Generator) -> Batch:
    """x ← λ x + (1 − λ) x' with another row x' of the batch, λ uniform for each row."""
    partner, share = rng.permutation(len(batch.rows)), rng.random(len(batch.rows))
    feeds = {}
    for name, array in batch.feeds.items():
        by = share.astype(array.dtype).reshape(-1, *[1] * (array.ndim - 1))
        feeds[name] = array * by + array[partner] * (1 - by)
    return Batch(feeds, batch.rows, True)


def _is_open(model: Model) -> bool:
    """Whether the first size of every input but scalars is open."""
    shapes = [v.type.shape for v in model.graph.inputs if v.default is None and isinstance(v.type, TensorType)]
    return any(shapes) and all(shape is not None and not (shape and isinstance(shape[0], int)) for shape in shapes)


def _rows(feed: Feeds) -> int:
    """Rows of a feed; 0 where its arrays differ in them."""
    sizes = {len(array) for array in feed.values() if np.ndim(array)}
    return sizes.pop() if len(sizes) == 1 else 0
