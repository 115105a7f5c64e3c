"""The targets of each batch: results of the teacher, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..ir import Array, TensorType
from ..measure import ort_session
from .matching import Pair, Tapped
from .running import run_session
from .samples import Batch, Row, Samples

HELD = 1 << 28
"""Bytes of the teacher's results cached for later epochs: a bound on memory, not tuned."""


class Targets:
    """Runs the teacher. Its results on unaugmented rows are cached, up to `HELD` bytes."""

    def __init__(self, teacher: Tapped | None, pairs: Sequence[Pair], samples: Samples, threads: int) -> None:
        self.pairs, self.samples = tuple(pairs), samples
        self._session: Any = None if teacher is None else ort_session(teacher.model, threads=threads)
        self._names = list(dict.fromkeys(pair.teacher for pair in pairs if pair.teacher))
        self._kept: dict[Row, list[Array]] = {}
        self._bytes = 0

    def of(self, batch: Batch) -> dict[str, Array]:
        """Targets by their names in a training step, `<name>.target`."""
        results = dict(zip(self._names, self._results(batch))) if self._names else {}
        labels = self.samples.labels_of(batch) if self.samples.labels else {}
        found = {}
        for pair in self.pairs:
            value = results[pair.teacher] if pair.teacher else labels[pair.name.removesuffix(".labelled")]
            if not pair.teacher:
                value = value.astype(_type_of(pair, value))
            found[f"{pair.name}.target"] = value
        return found

    def _results(self, batch: Batch) -> list[Array]:
        if batch.is_mixed:
            return self._run(batch)
        if all(row in self._kept for row in batch.rows):
            kept = [self._kept[row] for row in batch.rows]
            return kept[0] if batch.rows[0][1] < 0 else [np.stack(parts) for parts in zip(*kept)]
        results = self._run(batch)
        if self._bytes < HELD:
            self._bytes += sum(result.nbytes for result in results)
            if batch.rows[0][1] < 0:
                self._kept[batch.rows[0]] = results
            else:
                self._kept.update({row: [result[i] for result in results] for i, row in enumerate(batch.rows)})
        return results

    def _run(self, batch: Batch) -> list[Array]:
        results = [np.asarray(a) for a in run_session(self._session, self._names, batch.feeds, "the teacher's result")]
        for name, result in zip(self._names, results):
            if result.dtype.kind == "f" and np.isnan(result).any():
                raise InputError(f"distil: the teacher's {name!r} is NaN on some of the samples")
        return results


def _type_of(pair: Pair, labels: Array) -> Any:
    """The element type of labels: i64 for whole numbers, the output's type for others."""
    if labels.dtype.kind in "iub" or not isinstance(pair.student.type, TensorType):
        return np.int64
    return pair.student.type.dtype.numpy
