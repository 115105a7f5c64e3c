"""The lossy part of `optimize`: which stages run, what they are given, and how the report tells of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from ..calibration import open_calibration
from ..errors import OptionError
from ..ir import Model, clone_model
from ..measure import MakeSession, Metric, Quality, ort_session
from ..pipeline import Progress
from ..report.report import Report
from .context import Context, StageReport


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of the stages that are wanted, checked."""

    prune: Any
    quantize: Any

    @property
    def wanted(self) -> bool:
        """Any stage is to run."""
        return self.prune is not None or self.quantize is not None


def check(prune: Any, quantize: Any) -> Plan:
    """Check the options before any work is done. OptionError."""
    if prune is not None:
        from ..passes.prune import check_prune

        prune = check_prune(prune)
    if quantize is not None:
        from ..passes.quantize import check_quantize

        quantize = check_quantize(quantize)
    return Plan(prune, quantize)


def check_limit(metric: Any, max_drop: Any) -> None:
    """Check what the result is to be judged by. OptionError."""
    if metric is not None and not callable(metric):
        raise OptionError(f"metric is a function of a session, got {type(metric).__name__}")
    if max_drop is None:
        return
    if metric is None:
        raise OptionError("max_drop= needs metric=")
    if not isinstance(max_drop, Real) or not float(max_drop) >= 0:
        raise OptionError(f"max_drop is a number from 0 on, got {max_drop!r}")


def context(
    original: Model, plan: Plan, calibration: Any, metric: Metric | None, max_drop: float | None, target: str,
    seed: int, progress: Progress | None,
) -> Context:  # fmt: skip
    """What the stages are given; the original is what quality is judged by. InputError for unfit calibration data."""
    reference = clone_model(original)
    feeds = open_calibration(calibration, reference, seed=seed)
    if feeds.note and getattr(plan.quantize, "mode", None) == "static":
        warnings.warn(feeds.note, stacklevel=4)  # in the line that called optimize
    evaluations = max(getattr(options, "evaluations", 64) for options in (plan.prune, plan.quantize) if options)
    quality = Quality(reference, session_maker(target), feeds, metric, evaluations=evaluations)
    return Context(feeds, quality, max_drop, target, seed, progress)


def session_maker(target: str) -> MakeSession:
    """How candidates are run: by onnxruntime as it comes, or by graphopt's Session for its own target."""
    if target == "graphopt":
        from ..runtime import session_of

        return session_of
    return lambda model: ort_session(model, threads=0)


def run_stages(
    model: Model, plan: Plan, context: Context, clean: Callable[[Model], Model]
) -> tuple[Model, tuple[StageReport, ...]]:
    """Prune, clean up, quantize: the order in which each sees what it needs."""
    reports: list[StageReport] = []
    if plan.prune is not None:
        from ..passes.prune import prune

        model, told = prune(model, plan.prune, context)
        reports.append(told)
        model = clean(model) if told.changed else model
    if plan.quantize is not None:
        from ..passes.quantize import quantize

        model, told = quantize(model, plan.quantize, context)
        reports.append(told)
    return model, tuple(reports)


def with_stages(report: Report, stages: tuple[StageReport, ...], context: Context, model: Model) -> Report:
    """The report with what the stages tell, and the metric of what they left."""
    notes = (*report.notes, context.calibration.note) if context.calibration.note else report.notes
    told = "; ".join(f"{stage.name}: {stage.summary}" for stage in stages)
    if not any(stage.changed for stage in stages):
        return replace(report, stages=stages, notes=notes, reason=f"{report.reason}; {told}")
    reason = f"exact passes {report.status} {report.reason}; {told}"
    quality = context.quality
    metric = None if quality.metric is None else (quality.base, quality.score(model))  # known from the last stage
    return replace(report, stages=stages, notes=notes, status="lossy", reason=reason, metric=metric)
