"""The samples of a run, and which of them are held out."""

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
UNKNOWN = -100
"""The class of rows that `CrossEntropy` leaves out: torch's."""
Row = tuple[int, int]
"""The number of a feed, and a row of it; -1 for all of it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. feeds: the model's inputs; rows: where they come from; is_mixed: they are no longer these; combined: the
    places of those that are of two rows, whose class nobody knows."""

    feeds: Feeds
    rows: tuple[Row, ...]
    is_mixed: bool = False
    combined: tuple[int, ...] = ()


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
        found = {name: array[places] for name, array in self.labels.items()}
        if batch.combined:
            found = {name: array.astype(np.int64) for name, array in found.items()}
            for array in found.values():
                array[list(batch.combined)] = UNKNOWN
        return found

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


def _is_open(model: Model) -> bool:
    """Whether the first size of every input but scalars is open."""
    shapes = [v.type.shape for v in model.graph.inputs if v.default is None and isinstance(v.type, TensorType)]
    return any(shapes) and all(shape is not None and not (shape and isinstance(shape[0], int)) for shape in shapes)


def _rows(feed: Feeds) -> int:
    """Rows of a feed; 0 where its arrays differ in them."""
    sizes = {len(array) for array in feed.values() if np.ndim(array)}
    return sizes.pop() if len(sizes) == 1 else 0
