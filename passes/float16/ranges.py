"""Check a model's values on data against float16: out of range, too small, or rounded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...calibration.activations import stream
from ...equivalence.feeds import Feeds
from ...ir import Array, Model, Node, Value
from .assign import Candidates
from .constants import LARGEST, MASK, halved
from .slots import is_float

SAMPLES = 4
"""Samples on which values are read: ranges differ little from sample to sample, and the margin below covers the
rest."""
_BESIDE = 256.0
"""The largest distance from `MASK` of a masked element plus its score: half of float16's spacing is 16. A choice."""
_MARGIN = 2.0
"""The assumed growth of values on other inputs over the observed ones. A choice."""


@dataclass(slots=True)
class _Rounding:
    """Sums over the elements of one tensor."""

    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, array: Array) -> None:
        """Add an array to the sums, except masked elements."""
        kept = array[np.isfinite(array) & (np.abs(array - MASK) > _BESIDE)]
        if not kept.size:
            return
        self.largest = max(self.largest, float(np.abs(kept).max()))
        with np.errstate(over="ignore", invalid="ignore"):
            wrong = kept.astype(np.float64) - halved(kept)
        self.signal += float(np.square(kept, dtype=np.float64).sum())
        self.noise += float(np.square(wrong).sum())

    def why_not(self, floor: float) -> str:
        """Why float16 cannot represent the values, "" where it can."""
        if self.largest * _MARGIN > LARGEST:
            return f"its values reach {self.largest:.3g}: float16 ends at {LARGEST:g}"
        if self.noise and 10.0 * math.log10(self.signal / self.noise) < floor:
            return f"its values are as small as float16's spacing ({self.largest:.3g} at most)"
        return ""


def unfit(model: Model, given: Candidates, feeds: Iterable[Feeds], floor: float) -> dict[Node, str]:
    """The candidates whose results or operands float16 cannot represent, and why.

    Values are read on data in float32. Values of nested graphs cannot be read; the model's results judge these.
    """
    values = _values(model, given)
    found = {value: _Rounding() for value in values}
    for seen in stream(model, values, itertools.islice(feeds, SAMPLES)):
        for value, array in seen.items():
            found[value].add(np.asarray(array))
    kept: dict[Node, str] = {}
    for value, rounding in found.items():
        why = rounding.why_not(floor)
        if not why:
            continue
        name = value.name or (value.producer.op if value.producer is not None else "an input")
        if value.producer in given.slots:
            kept.setdefault(value.producer, why)
        for use in value.uses:
            if use.node in given.slots and use.slot in given.slots[use.node].inputs:
                kept.setdefault(use.node, f"it reads {name}: {why}")
    return kept


def _values(model: Model, given: Candidates) -> Sequence[Value]:
    inputs = [value for value in model.graph.inputs if is_float(value)]
    made = [out for node in model.graph.snapshot() if node in given.slots for out in node.outputs if is_float(out)]
    return [*inputs, *made]
