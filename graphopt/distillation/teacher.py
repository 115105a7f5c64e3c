"""The targets of each batch: results of the teacher, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import Array
from ..measure import ort_session
from .matching import Pair, Tapped
from .samples import Batch, Row, Samples

HELD = 1 << 28
"""Bytes of the teacher's results that are kept for later epochs: a bound on memory, not tuned."""


class Targets:
    """Runs the teacher. What it says of unmixed rows is kept, as far as memory allows."""

    def __init__(self, teacher: Tapped | None, pairs: Sequence[Pair], samples: Samples, threads: int) -> None:
        self.pairs, self.samples = tuple(pairs), samples
        self._session: Any = None if teacher is None else ort_session(teacher.model, threads=threads)
        self._names = list(dict.fromkeys(pair.teacher for pair in pairs if pair.teacher))
        self._kept: dict[Row, list[Array]] = {}
        self._bytes = 0

    def of(self, batch: Batch) -> dict[str, Array]:
        """Targets by the names that a training step has for them."""
        results = dict(zip(self._names, self._results(batch))) if self._names else {}
        labels = self.samples.labels_of(batch) if self.samples.labels else {}
        found = {}
        for pair in self.pairs:
            value = results[pair.teacher] if pair.teacher else labels[pair.name.removesuffix(".labelled")]
            whole = value.dtype.kind in "iub" and not pair.teacher
            found[f"{pair.name}.target"] = value.astype(np.int64) if whole else value
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
        return [np.asarray(result) for result in self._session.run(self._names, batch.feeds)]
