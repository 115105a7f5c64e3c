"""The error of a model's results with one unit alone quantized."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ....compress.context import StageContext
from ....ir import Model, clone_model
from ....measure import Quality
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit
from ..emit.qdq import build

RANKED = 4
"""Samples by which units are ranked; the verdict on an assignment takes all. A rank needs no more: each unit costs a
session and this many runs. `python -m tests.bench.zoo_int8` shows the accuracy that ranking by them leads to."""


class SingleUnitErrors:
    """Relative errors (RMS, worst output, first samples) by unit, as far as they were measured.

    Scores are compared before a final Softmax: behind it a few near ties make all of the error of a few samples.
    """

    def __init__(self, calibrated: CalibratedModel, context: StageContext) -> None:
        self.calibrated, self.context = calibrated, context
        self.known: dict[Unit, float] = {}

    def measure(self, units: Iterable[Unit]) -> None:
        """Measure the units whose error is not known: a session and `RANKED` runs each. Infinite where results are."""
        quality = self.context.quality
        reference = clone_model(self.calibrated.model)
        if drop_final_softmax(reference):
            quality = Quality(reference, quality.session, quality.feeds, samples=RANKED)
        for unit in units:
            if unit not in self.known:
                model = build(self.calibrated.assignment.with_units((unit,)))
                if quality is not self.context.quality:
                    drop_final_softmax(model)
                ratio = quality.fidelity(model, RANKED).sqnr_db
                self.known[unit] = math.inf if ratio == -math.inf else 10.0 ** (-ratio / 20.0)


def drop_final_softmax(model: Model) -> bool:
    """Return logits instead of Softmax outputs; True if changed."""
    graph = model.graph
    producers = [value.producer for value in graph.outputs]
    scores = [v if n is None or n.op != "Softmax" else n.inputs[0] for v, n in zip(graph.outputs, producers)]
    changed = any(a is not b for a, b in zip(scores, graph.outputs))
    if changed:
        graph.set_outputs([v for v in scores if v is not None], graph.ports)
    return changed
