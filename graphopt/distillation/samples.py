"""The samples of a run, split into training rows and held-out rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..equivalence.feeds import Feeds
from ..errors import InputError, OptionError
from ..ir import Array, Model, TensorType

LEAST = 8
"""The fewest samples for training: with the default share, one of eight is held out. A choice."""
UNKNOWN = -100
"""The class label that `CrossEntropy` ignores: torch's default."""
Row = tuple[int, int]
"""A feed's index, and a row's index in the feed; -1 for the whole feed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. feeds: the model's inputs; rows: their source rows; is_mixed: augmentation changed the inputs; combined:
    indices of inputs mixed from two rows, whose class is unknown."""

    feeds: Feeds
    rows: tuple[Row, ...]
    is_mixed: bool = False
    combined: tuple[int, ...] = ()


class Samples:
    """All samples, in memory, each a row where the model leaves its batch open, else a whole feed.

    held: the held-out rows; groups: all other rows, grouped by shapes. labels: arrays by the name of the result they
    are for, one row a sample.
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
        """The batch of these rows."""
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
        """A digest of all samples and labels."""
        found = hashlib.sha256()
        for arrays in (*self.feeds, self.labels):
            for name, array in arrays.items():
                found.update(f"{name} {array.dtype} {array.shape} ".encode())
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def _key(self, row: Row) -> tuple[object, ...]:
        """The key that rows of one batch share: shapes, types and scalars. A whole feed is a batch alone."""
        number, index = row
        if index < 0:
            return (number,)
        feed = self.feeds[number]
        return tuple((n, a.shape[1:] if a.ndim else a.tobytes(), a.dtype.str) for n, a in feed.items())


def _is_open(model: Model) -> bool:
    """Whether the first size of every non-scalar input is open."""
    shapes = [v.type.shape for v in model.graph.inputs if v.default is None and isinstance(v.type, TensorType)]
    return any(shapes) and all(shape is not None and not (shape and isinstance(shape[0], int)) for shape in shapes)


def _rows(feed: Feeds) -> int:
    """Number of rows of a feed; 0 where its arrays disagree."""
    sizes = {len(array) for array in feed.values() if np.ndim(array)}
    return sizes.pop() if len(sizes) == 1 else 0
