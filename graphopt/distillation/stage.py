"""The stage of `recover=`: the pruned or quantized model is distilled from the original."""

from __future__ import annotations

from dataclasses import dataclass

from ..compress.context import StageContext
from ..compress.report import StageFigures, StageReport
from ..ir import Model
from .options import Distil
from .result import DistilReport
from .run import distil_model

_EXACT = 80.0
"""SQNR (dB) to the original beyond which nothing is left to learn: that of rounding in single precision."""


@dataclass(frozen=True, slots=True)
class RecoverFigures(StageFigures):
    """Errors, SQNR (dB) and top-1 agreement on `held_out` samples that no step saw, before and after training."""

    error_before: float
    error_after: float
    sqnr_before: float | None
    sqnr_after: float | None
    agreement_before: float | None
    agreement_after: float | None
    held_out: int
    steps: int
    learning_rate: float


def recover(name: str, model: Model, options: Distil, context: StageContext) -> tuple[Model, StageReport]:
    """A copy of `model` with weights trained on the original's results; `model` itself where the error does not fall.

    With a metric, `model` is also returned where the metric falls.
    """
    quality = context.quality
    if context.calibration.is_synthetic:
        return model, StageReport(name, "made-up inputs teach nothing: weights stay as they were", changed=False)
    if quality.fidelity(model).sqnr_db > _EXACT:
        return model, StageReport(name, "results are the original's: there is nothing to recover", changed=False)
    found = distil_model(
        model, quality.reference, context.calibration, options, seed=context.seed, progress=context.progress
    )
    report, seconds = found.report, found.report.seconds
    figures = _figures(report)
    if not report.improved:
        return model, StageReport(name, report.gained, facts=figures, seconds=seconds, changed=False)
    if quality.metric is not None and quality.left and quality.score(found.ir) < quality.score(model):
        reason = f"{report.gained}; but the metric falls: weights stay as they were"
        return model, StageReport(name, reason, facts=figures, seconds=seconds, changed=False)
    return found.ir, StageReport(name, report.gained, facts=figures, seconds=seconds, fitted="trained weights")


def _figures(report: DistilReport) -> RecoverFigures:
    before, after = report.fidelity_before, report.fidelity_after
    return RecoverFigures(
        report.error_before, report.error_after,
        None if before is None else before.to_dict()["sqnr_db"], None if after is None else after.to_dict()["sqnr_db"],
        None if before is None else before.top1, None if after is None else after.top1,
        report.held_out, report.steps, report.learning_rate,
    )  # fmt: skip
