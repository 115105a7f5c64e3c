"""The error of a model's results with one unit alone quantized."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ....compress.context import StageContext
from ....ir import Model, clone_model
from ....measure import Quality
from ....onnx_io import is_large
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit
from ..emit.qdq import build
from .predicted_errors import drop_final_softmax, predicted_errors

RANKED = 4
"""Samples for ranking units; the verdict on an assignment uses all. A ranking needs no more: each unit costs a session
and this many runs. `python -m tests.bench.zoo_int8` shows the resulting accuracy."""


class SingleUnitErrors:
    """Relative errors (RMS, worst output, first samples) by unit, where measured.

    predicted: errors to first order, from one backward pass for all units, where predicted. Scores are compared before
    a final Softmax: after it, a few near ties dominate the error of a few samples.
    """

    def __init__(self, calibrated: CalibratedModel, context: StageContext) -> None:
        self.calibrated, self.context = calibrated, context
        self.known: dict[Unit, float] = {}
        self.predicted: dict[Unit, float] = {}

    def measure(self, units: Iterable[Unit]) -> None:
        """Measure the units without a known error: a session and `RANKED` runs each. Infinite for infinite results."""
        quality = self.context.quality
        reference = clone_model(self.calibrated.model)
        if drop_final_softmax(reference):
            quality = Quality(reference, quality.session, quality.feeds, samples=RANKED)
        wanted = [unit for unit in dict.fromkeys(units) if unit not in self.known]
        models = (self._alone(unit, quality is not self.context.quality) for unit in wanted)
        for unit, found in zip(wanted, quality.fidelities(models, RANKED, self.context.candidates_executor)):
            self.known[unit] = math.inf if found.sqnr_db == -math.inf else 10.0 ** (-found.sqnr_db / 20.0)

    def _alone(self, unit: Unit, drops_softmax: bool) -> Model:
        """The model with one unit on integers."""
        model = build(self.calibrated.assignment.with_units((unit,)))
        if drops_softmax:
            drop_final_softmax(model)
        return model

    def predict(self, units: Sequence[Unit]) -> None:
        """Predict the errors of units, together; no prediction where a node has no gradient, nor for large models,
        whose weights a gradient copies several times."""
        if not is_large(self.calibrated.model) and not all(unit in self.predicted for unit in units):
            self.predicted.update(predicted_errors(self.calibrated, units, self.context, RANKED))
