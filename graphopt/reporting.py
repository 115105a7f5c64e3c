"""The report of a run: of its exact passes, then of the lossy stages on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .calibration import doubts
from .compress.context import StageContext
from .compress.report import StageReport
from .ir import Model
from .measure import Figures, metric_name
from .options import Options
from .pipeline import Outcome
from .provenance import Trail
from .report import Report
from .report.data import summaries
from .validation import EquivalenceCheck, SizeCheck, evidence


def report_of(
    outcome: Outcome, before: Figures, after: Figures, check: SizeCheck, seconds: float, options: Options,
    trail: Trail,
) -> Report:  # fmt: skip
    """The report of the exact passes: their effects, and the grounds on which the result counts as equal."""
    comparison = check.comparison if isinstance(check, EquivalenceCheck) else None
    checking = check.seconds if isinstance(check, EquivalenceCheck) else 0.0
    if isinstance(check, EquivalenceCheck) and comparison is not None:
        status, reason = comparison.status, comparison.reason or evidence(comparison, check.also)
    elif isinstance(check, EquivalenceCheck) and check.unloadable:
        status, reason = "unverified", f"{check.grounds}; {check.unloadable}"
    elif isinstance(check, EquivalenceCheck):
        status, reason = "equal", check.grounds + (": all was rolled back" if outcome.rolled_back else "")
    else:
        status, reason = "not checked", "validation was off"
    return Report(
        before=before, after=after, effects=tuple(outcome.effects), rolled_back=tuple(outcome.rolled_back),
        status=status, reason=reason, comparison=comparison, notes=(), seconds=seconds - checking,
        seconds_checking=checking, target=options.target.runtime, seed=options.seed, trail=trail,
    )  # fmt: skip


def with_stages(report: Report, stages: Sequence[StageReport], context: StageContext, model: Model) -> Report:
    """The report extended by the stages' reports, and by the metric or fidelity of the final model."""
    made_up = context.calibration.is_synthetic
    reference = context.quality.reference
    doubted = () if made_up else doubts(reference, context.calibration)
    notes = (context.calibration.note, *doubted) if context.calibration.note else doubted
    told = summaries(stages)
    report = replace(report, stages=tuple(stages), notes=(*report.notes, *notes), synthetic=made_up)
    if not any(stage.changed for stage in stages):
        return replace(report, reason=f"{report.reason}; {told}")
    reason = f"exact passes {report.status}: {report.reason}; {told}"
    report = replace(report, status="lossy", reason=reason, validation=report.status)
    quality = context.quality
    if quality.metric is not None:
        scores = quality.base, quality.score(model)  # cached by the last stage
        return replace(report, metric=scores, metric_name=metric_name(quality.metric), metric_samples=quality.rows)
    if made_up:  # made-up inputs say nothing of quality
        return report
    fidelity = quality.fidelity(model)
    return replace(report, fidelity=fidelity, fidelity_samples=quality.held)
