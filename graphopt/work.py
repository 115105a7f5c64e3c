"""The work on one model: schedules of exact passes, then the lossy stages, as the options say."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from . import onnx_io
from .calibration import Calibration, open_calibration
from .compress.context import StageContext
from .compress.report import StageReport
from .compress.stages import Stage, run_stages, stage_context
from .errors import ModelError, OptionError, did_you_mean
from .ir import FunctionId, Model, clone_model, collector_paused, collector_running
from .measure import Figures, figures
from .ops import DEFAULT_DOMAIN, schema
from .options import Compression, Options, Validation
from .pipeline import CheckPolicy, OnBlame, Outcome, Pass, Progress, current, run
from .provenance import KEY
from .rewrite import RewriteLog
from .validation import EquivalenceCheck, SizeCheck, with_slack

if TYPE_CHECKING:
    from .onnx_io.lend import Emission
    from .onnx_io.source import ModelSource

GIVEN = 4
"""Samples of the caller that a result is compared on, where no made-up inputs run or all passes are exact: as many as
are made up."""


@dataclass(slots=True)
class Work:
    """Runs schedules as the options say; `logs` are the records of all runs."""

    options: Options
    progress: Progress | None
    exact: Sequence[Pass]
    on_blame: OnBlame | None
    logs: list[RewriteLog] = field(default_factory=list)

    def check(
        self, reference: ModelSource | Model, before: Figures, parsed: Emission | None = None,
        data: Calibration | None = None,
    ) -> SizeCheck:  # fmt: skip
        """What a result has to pass. parsed: the reference as ONNX, where it was parsed already. data: the caller's, if
        there are any."""
        if self.options.validation.policy == "off":
            return SizeCheck(before)
        first = None if data is None or data.is_synthetic else partial(data.first, GIVEN)
        alone = self.options.compression.validates
        return EquivalenceCheck(reference, before, self.options.seed, parsed, first, also_given=alone)

    def run(self, model: Model, schedule: Sequence[Pass], check: SizeCheck, constant_bytes: int) -> Outcome:
        """Run a schedule within the budget of bytes."""
        policy = self.options.validation.policy
        outcome = run(
            model, schedule, target=self.options.target.runtime, size_limit=with_slack(constant_bytes), check=check,
            policy="end" if policy == "off" else policy, progress=self.progress, on_blame=self.on_blame,
        )  # fmt: skip
        self.logs.append(outcome.log)
        return outcome

    def compressed(
        self, model: Model, context: StageContext, last: Sequence[Pass]
    ) -> tuple[Model, tuple[StageReport, ...]]:
        """Run the options' lossy stages on the result of the exact passes."""
        with collector_running():
            finished, stages = run_stages(model, _stages(self.options.compression), context, self.clean)
        if last and self.options.target.runtime == "onnxruntime":
            finished = self.clean(finished, last)
        return finished, stages

    def quietly(self, model: Model, check: SizeCheck) -> Outcome:
        """Run the exact schedule on a part of a model, without callbacks."""
        quiet = replace(self, progress=None, on_blame=None)
        return quiet.run(model, self.exact, check, figures(model).constant_bytes)

    def clean(self, model: Model, schedule: Sequence[Pass] | None = None) -> Model:
        """The exact passes on the result of a lossy stage, validated against it; that result itself if refused."""
        emitted = onnx_io.emission(model)
        size = figures(model, onnx_io.file_bytes(model, emitted))
        quiet = replace(self, progress=None, on_blame=None, options=_checked_at_end(self.options))
        check = quiet.check(model, size, emitted)
        return quiet.run(model, self.exact if schedule is None else schedule, check, size.constant_bytes).model


def _checked_at_end(options: Options) -> Options:
    policy: CheckPolicy = "end" if options.validation.validate else "off"
    return replace(options, validation=Validation(check=policy))


@dataclass(frozen=True, slots=True)
class Exact:
    """The unvalidated result of the exact passes, with its data: the common start of many recipes.

    model: input of lossy stages, which never edit it. context: of these stages, with the original's results. last: the
    passes that run after the stages.
    """

    model: Model
    context: StageContext
    work: Work
    last: Sequence[Pass]

    def compressed(self, options: Options) -> tuple[Model, tuple[StageReport, ...]]:
        """The result of `optimize_as` for options that differ from `exact`'s in `compression` alone; reports lack
        times."""
        return replace(self.work, options=options).compressed(self.model, self.context, self.last)

    def on(self, options: Options) -> Exact:
        """The same with the calibration data of other options."""
        context = context_of(self.context.quality.reference, options, None, None)
        assert context is not None
        return replace(self, context=replace(context, is_timed=False))


@collector_paused()
def exact(model: ModelSource, options: Options) -> Exact:
    """The exact passes of a run that has lossy stages. options: without a metric, and not validated."""
    lifted = onnx_io.load(model)
    check_operators(lifted)
    lifted.metadata.pop(KEY, None)
    before = figures(lifted, onnx_io.file_bytes(lifted, model))
    schedule, last = schedules(lifted, options)
    context = context_of(lifted, options, None, None)
    if context is None:
        raise OptionError("exact: no lossy stage was asked for")
    work = Work(options, None, schedule, None)
    made = work.run(lifted, schedule, work.check(model, before), before.constant_bytes).model
    return Exact(made, replace(context, is_timed=False), work, last)


def schedules(model: Model, options: Options) -> tuple[list[Pass], list[Pass]]:
    """The passes before lossy stages, and those after: stages do not know operators that only the target has."""
    registry, asked = current(), options.schedule
    schedule = list(registry.scheduled(asked.add) if asked.passes is None else registry.resolve(asked.passes))
    for name in asked.skip:
        if not any(item.name == name for item in schedule):
            known = list(dict.fromkeys(item.name for item in schedule))
            raise OptionError(f"skip {name!r}{did_you_mean(name, known)}: the schedule has {', '.join(known)}")
    schedule = [*_conversion(model, options.target.opset), *(p for p in schedule if p.name not in asked.skip)]
    if not options.compression.is_wanted:
        return schedule, []
    from .passes import FOR_TARGET

    return [p for p in schedule if p not in FOR_TARGET], [p for p in schedule if p in FOR_TARGET]


def _conversion(model: Model, opset: int | None) -> list[Pass]:
    """The pass that converts the model to the requested opset, if any. OptionError where that is impossible."""
    if opset is None:
        return []
    from .passes.convert import check_convertible, convert_opset

    convert = convert_opset(opset)
    check_convertible(model, opset)
    return [convert]


def _stages(compression: Compression) -> list[Stage[Any]]:
    from .passes import stages

    return stages(compression.prune, compression.quantize, compression.precision, compression.recover)


def context_of(
    original: Model, options: Options, progress: Progress | None, executor: Executor | None
) -> StageContext | None:
    """The context of lossy stages, None where there are none. InputError for calibration data that do not fit."""
    asked = options.compression
    if not asked.is_wanted:
        return None
    evaluations = max(
        stage.evaluations for stage in (asked.prune, asked.quantize, asked.precision) if stage is not None
    )
    return stage_context(
        original, asked.calibration, asked.metric, asked.max_drop, options.target.runtime, options.seed, progress,
        evaluations, asked.preprocess, executor, asked.texts,
    )  # fmt: skip


def data_of_caller(original: Model, options: Options, context: StageContext | None) -> Calibration | None:
    """The data of lossy stages; without these what the caller gave to validate by, if anything. InputError for data
    that do not fit."""
    asked = options.compression
    if not asked.validates or options.validation.policy == "off":
        return None if context is None else context.calibration
    return open_calibration(asked.calibration, clone_model(original), seed=options.seed, preprocess=asked.preprocess)


def check_operators(model: Model) -> None:
    """ModelError for an operator of ONNX's domain that neither ONNX, at the model's opset, nor onnxruntime has
    there."""
    for body in (model, *(f.body for f in model.functions.values())):
        for node in body.graph.walk():
            if node.domain or schema(node) is not None or node.op in DEFAULT_DOMAIN:
                continue
            if FunctionId("", node.op, node.overload) in model.functions:
                continue
            raise ModelError(f"node {node.name or node.op!r}: opset {body.opset} has no operator {node.op}")
