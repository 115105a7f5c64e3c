"""The lossy stages of a run, in order. A stage returns its input, unchanged, when it cannot do better."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..calibration import Preprocess, Tokenizer, open_calibration
from ..calibration.prompts import TEXTS
from ..calibration.source import CalibrationData
from ..equivalence.runnable import PACKED
from ..errors import ModelError
from ..ir import Model, clone_model
from ..machine.sessions import ASLEEP, PACKED_BESIDE, is_refusal, packing
from ..measure import SAMPLES, MakeSession, Metric, Quality, ort_session, taking_floats
from ..onnx_io import is_large
from ..onnx_io.weights import unpacked_bytes
from ..pipeline import Progress
from .context import StageContext
from .report import StageReport

Options = TypeVar("Options")

_log = logging.getLogger(__name__)

MADE_UP, FEW = 8, 2
"""Made-up inputs where there are no data; for models of gigabytes, both these and the judging samples are few: each run
reads all weights. `python -m tests.bench.memory` prints the time."""


@dataclass(frozen=True, slots=True)
class Stage(Generic[Options]):
    """A requested stage, with its options. `run` never edits its input model.

    clean: the exact passes should run on its result.
    """

    name: str
    options: Options
    run: Callable[[Model, Options, StageContext], tuple[Model, StageReport]]
    clean: bool = False

    def __call__(self, model: Model, context: StageContext) -> tuple[Model, StageReport]:
        """The model after the stage, and the stage's report."""
        return self.run(model, self.options, context)


def stage_context(
    original: Model, calibration: CalibrationData, metric: Metric | None = None, max_drop: float | None = None,
    target: str = "portable", seed: int = 0, progress: Progress | None = None, evaluations: int = 64,
    preprocess: str | Preprocess | Tokenizer | None = None, executor: Executor | None = None, texts: int = TEXTS,
) -> StageContext:  # fmt: skip
    """The context of a run; quality is judged by the original. InputError for calibration data that do not fit."""
    reference, large = clone_model(original), is_large(original)
    made_up = FEW if large else MADE_UP
    feeds = open_calibration(calibration, reference, samples=made_up, seed=seed, preprocess=preprocess, texts=texts)
    judged = FEW if large else SAMPLES
    seen = [(sample.feeds, [*sample.results.values()]) for sample in feeds.take_seen() if large]
    quality = Quality(
        reference, session_maker(target), feeds, metric, evaluations=evaluations, samples=judged, seen=seen
    )
    return StageContext(feeds, quality, max_drop, target, seed, progress, executor)


def session_maker(target: str, threads: int | None = None) -> MakeSession:
    """Opens candidates in onnxruntime, or in graphopt's Session for its own target. threads: None for all."""
    if target == "graphopt":
        from ..runtime import session_of

        return lambda model: session_of(model, threads)
    return lambda model: taking_floats(ort_session(model, threads=threads or 0, options=_entries(model)))


def _entries(model: Model) -> Mapping[str, str]:
    """The configuration of a session that judges a model."""
    packs = unpacked_bytes(model) <= PACKED_BESIDE or any(node.op in PACKED for node in model.graph.walk())
    return {**ASLEEP, **packing(packs)}


def run_stages(
    model: Model, stages: Sequence[Stage[Any]], context: StageContext, clean: Callable[[Model], Model]
) -> tuple[Model, tuple[StageReport, ...]]:
    """Run the stages in order; `clean` runs the exact passes after those that ask for it, if they changed anything.

    Where onnxruntime refuses a stage's result or an intermediate model, the stage's input stays, with the reason.
    """
    reports: list[StageReport] = []
    for stage in stages:
        try:
            result, report = stage(model, context)
            if report.changed:
                context.quality.require_running(result)
            model = result
        except Exception as error:
            if not (isinstance(error, ModelError) or is_refusal(error)):
                raise
            report = StageReport(stage.name, f"left as it was: {' '.join(str(error).split())}", changed=False)
        reports.append(report)
        _log.info("%s: %s", report.name, report.summary)
        if stage.clean and report.changed:
            model = clean(model)
    return model, tuple(reports)
