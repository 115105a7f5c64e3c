"""`graphopt.optimize`: lift, rewrite, emit, validate."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import onnx_io
from .arguments import check_arguments
from .compress.report import StageReport, banner_of
from .errors import ModelError, OptionError
from .ir import Model, clone_model, collector_paused, collector_running
from .machine.files import check_target
from .measure import figures
from .options import (
    Compression,
    Options,
    Output,
    Runtime,
    Schedule,
    Target,
    Validation,
    as_precision,
    as_prune,
    as_quantize,
    as_recover,
)
from .partial import in_part
from .pipeline import CheckPolicy, OnBlame, Outcome, PassLike, Progress
from .pipeline.repro import leave_repros, runnable_feeds
from .provenance import KEY, Trail
from .recipe import Recipe, data_of, model_digest, recorded
from .reporting import report_of, with_stages
from .result import Result
from .validation import EquivalenceCheck, SizeCheck, tell_cost
from .work import Work, check_operators, context_of, data_of_caller, schedules

if TYPE_CHECKING:
    import onnx

    from .calibration import CalibrationData, Preprocess, Tokenizer
    from .distillation import Distil
    from .measure import Metric
    from .onnx_io.source import ModelSource
    from .passes.float16 import Float16
    from .passes.prune import Prune
    from .passes.quantize import Quantize

_log = logging.getLogger(__name__)

MADE_UP = "graphopt.made_up"
"""The metadata entry of a model whose numbers come from made-up inputs: the report's banner."""
_WARM_SECONDS = 0.1
"""Seconds of timing per region and runtime where the target is the Session; `graphopt warmup` takes 0.5."""


def optimize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    *,
    passes: Sequence[PassLike] | None = None,
    skip: Sequence[str] = (),
    add_passes: Sequence[PassLike] = (),
    quantize: str | Mapping[str, object] | Quantize | None = None,
    prune: float | Mapping[str, object] | Prune | None = None,
    precision: str | Mapping[str, object] | Float16 | None = None,
    recover: str | Mapping[str, object] | Distil | None = None,
    calibration: CalibrationData = None,
    preprocess: str | Preprocess | Tokenizer | None = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    target: Runtime = "portable",
    input_shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    validate: bool = True,
    check: CheckPolicy = "end",
    provenance: bool = False,
    recipe: str | os.PathLike[str] | Recipe | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    repros: str | os.PathLike[str] | None = None,
    on_blame: OnBlame | None = None,
) -> Result:
    """Optimise an ONNX model: the same results, fewer nodes, a file that grows by 1 % + 4 KB at most.

    model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`. output: where to write the result.
    passes: an explicit schedule (names, `Pass` objects, rules) in place of the built-in one; skip: names to leave out;
    add_passes: further passes, at the places in the built-in schedule that they name, or at its end.
    quantize: "static", "dynamic", "weights" or `graphopt.Quantize`. prune: a ratio of channels or `graphopt.Prune`.
    precision: "float16" or `graphopt.Float16`: half the bytes, nodes that lose too much by it stay float32.
    recover: "distil" or `graphopt.Distil`: train what pruning and quantization leave on the original's results, see
    `graphopt.distil`.
    calibration: data to quantize and prune by, without which "static" is refused; "synthetic" asks for made-up inputs,
    and leaves accuracy unknown. Where nothing is lossy, four of its samples validate, beside made-up ones. preprocess:
    how images of a folder become inputs, such as "imagenet", or the function that makes tokens of texts.
    metric: a function of a session, higher is better; max_drop: how far it may fall, as an absolute difference, before
    layers go back to what they were.
    target: "portable" (standard operators), "onnxruntime" (its CPU provider's too) or "graphopt" (for the Session:
    its kernels are then compiled and measured beside onnxruntime, see `graphopt warmup`).
    input_shapes: sizes to fix, by input name; None or -1 leaves a size open. dims: the same by the size's name.
    opset: a later version of ONNX's operator set to convert the model to, first of all.
    validate: compare the result with the original, as `graphopt.compare` does; a rewrite that changes results is rolled
    back and reported; in place of a result that cannot be verified the original is returned, with the reason. check:
    "end" (default), "each" (after each pass) or "off". progress: called with (step, fraction done).
    repros: a folder for small models that show why a rewrite was rolled back; on_blame: called for each rolled-back
    rewrite instead.
    provenance: a metadata entry records the original nodes of each node (`graphopt explain`); neither the figures nor
    the size limit count it.
    recipe: a file or `graphopt.Recipe`, such as `result.recipe`: replaces all options here except data, metric,
    validation and output. Same machine and data: the same bytes.
    executor: any of `concurrent.futures`, such as dask's, runs calibration, rounding and trials of single layers; the
    result is the same on any number of workers.

    The same input, options and seed give the same bytes. Raises `graphopt.GraphoptError` subclasses with one line.
    """
    options = Options(
        target=Target(runtime=target, input_shapes=input_shapes or {}, dims=dims or {}, opset=opset),
        schedule=Schedule(passes=passes, skip=skip, add=add_passes),
        compression=Compression(
            quantize=as_quantize(quantize),
            prune=as_prune(prune),
            precision=as_precision(precision),
            recover=as_recover(recover),
            calibration=calibration,
            preprocess=preprocess,
            metric=metric,
            max_drop=max_drop,
        ),
        validation=Validation(validate=validate, check=check, repros=repros, on_blame=on_blame),
        output=Output(path=output, provenance=provenance),
        seed=seed,
    )
    check_arguments(optimize, locals())
    read = Recipe.load(recipe) if isinstance(recipe, (str, os.PathLike)) else recipe
    if read is not None:
        options = read.options(options)
    result = optimize_as(model, options, progress, read, executor)
    is_static = options.compression.quantize is not None and options.compression.quantize.mode == "static"
    if is_static or read is not None:
        for note in (result.report.banner, *result.report.notes):
            if note:
                warnings.warn(note, stacklevel=2)
    return result


@collector_paused()
def optimize_as(
    model: ModelSource, options: Options, progress: Progress | None = None, recipe: Recipe | None = None,
    executor: Executor | None = None,
) -> Result:  # fmt: skip
    """`optimize` with its options as one value, for callers that keep them: the command line, bisection, recipes.

    recipe: the source of the options; model, data and machine are compared with its own.
    """
    options.compression.require_data()
    if progress is not None and not callable(progress):
        raise OptionError(f"progress is a function of a text and a share, got {type(progress).__name__}")
    if options.output.path is not None:
        check_target(options.output.path)
    start = time.perf_counter()
    target, seed = options.target.runtime, options.seed
    lifted = onnx_io.load(model)
    check_operators(lifted)
    before = figures(lifted, onnx_io.file_bytes(lifted, model))
    if recipe is not None and recipe.model:
        recipe.check_model(model_digest(lifted))
    lifted.metadata.pop(KEY, None)  # the lifted metadata entry describes another run
    _log.info("read %d nodes, %d bytes of constants", before.nodes, before.constant_bytes)
    reference: ModelSource | Model = _specialised(lifted, options.target) or model
    exact, last = schedules(lifted, options)
    refusal: ModelError | None = None
    try:
        context = context_of(lifted, options, progress, executor)
    except ModelError as error:
        context, refusal = None, error
    tell_cost(lifted, options.validation.policy, progress)
    work = Work(options, progress, exact, _on_blame(reference, options))
    parsed = onnx_io.lifted_from(lifted) if reference is model else None
    check = work.check(reference, before, parsed, data_of_caller(lifted, options, context))
    outcome = work.run(lifted, exact, check, before.constant_bytes)
    if isinstance(check, EquivalenceCheck) and check.ran_nothing:
        onnx_io.check(lifted)  # onnxruntime cannot run the model: raise if the model itself is invalid
    aside = ""
    if isinstance(check, EquivalenceCheck) and options.target.opset is None:
        outcome, check, aside = in_part(lifted, outcome, check, work.quietly)
    _check_conversion(outcome, options.target.opset)
    finished, stages = outcome.model, tuple[StageReport, ...]()
    original = _kept_original(model, reference, outcome, check)
    if refusal is not None and original is None:
        raise refusal
    if context is not None and original is None:
        finished, stages = work.compressed(finished, context, last)
    banner = ""
    if context is not None and context.calibration.is_synthetic:
        banner = banner_of(stages, context.quality.metric is not None)
    if banner:
        finished.metadata[MADE_UP] = banner
    emitted = check.emitted(finished) if original is None else onnx_io.Emission(original)
    after = figures(finished, onnx_io.file_bytes(finished, emitted))
    changed = tuple(stage.name.partition(" ")[0] for stage in stages if stage.changed)
    trail = Trail(lifted, finished, tuple(work.logs), (*exact, *last), changed)
    report = report_of(outcome, before, after, check, time.perf_counter() - start, options, trail)
    if aside:
        report = replace(report, reason=f"{report.reason}; {aside}")
    if original is not None:
        why = "" if outcome.verdict is None else outcome.verdict.reason
        report = replace(report, status="equal", reason=f"the original is returned as it was: {why}", comparison=None)
    elif context is not None:
        report = replace(with_stages(report, stages, context, finished), banner=banner)
    if options.output.provenance and original is None:
        finished.metadata[KEY] = trail.provenance.to_json()
        emitted = onnx_io.emission(finished)
    if target == "graphopt":
        _warm(finished, reference, seed)
    calibration = None if context is None else context.calibration
    if recipe is not None:
        data = data_of(options.compression.calibration, calibration) if recipe.data else ""
        report = replace(report, notes=(*report.notes, *recipe.notes(data)))
    _log.info("%s %s", report.status, report.reason)

    def record() -> Recipe:
        return recorded(options, stages, lifted, calibration)

    result = Result(finished, report, emitted, original is not None, record)
    if options.output.path is not None:
        result.save(Path(options.output.path))
    return result


def _kept_original(
    model: ModelSource, reference: ModelSource | Model, outcome: Outcome, check: SizeCheck
) -> onnx.ModelProto | None:
    """The original's own proto where the check refuses even the emission of the unchanged model; else None."""
    if outcome.verdict is None or outcome.verdict.ok or reference is not model:
        return None
    comparison = check.comparison if isinstance(check, EquivalenceCheck) else None
    if comparison is not None and comparison.status == "unverified":
        return None
    from .onnx_io.source import read_proto

    return read_proto(model)[0]


def _specialised(model: Model, target: Target) -> Model | None:
    """Fix the requested sizes in `model`; returns a copy of it, the reference, or None where no size is fixed."""
    if not target.input_shapes and not target.dims:
        return None
    from .passes.shapes.inputs import fix_dims, specialise_inputs

    specialise_inputs(model, target.input_shapes)
    fix_dims(model, target.dims)
    return clone_model(model)


def _check_conversion(outcome: Outcome, opset: int | None) -> None:
    """OptionError with the reason where the conversion was rolled back."""
    if opset is None or outcome.model.opset in (0, opset):
        return
    rolled_back = next((item for item in outcome.rolled_back if item.what in ("convert-opset", "*")), None)
    if rolled_back is not None and isinstance(rolled_back.cause, OptionError):
        raise rolled_back.cause
    raise OptionError(f"opset {opset}: {'no reason is known' if rolled_back is None else rolled_back.reason}")


def _on_blame(reference: ModelSource | Model, options: Options) -> OnBlame | None:
    asked = options.validation
    if asked.on_blame is not None or asked.repros is None:
        return asked.on_blame
    return leave_repros(reference, Path(asked.repros), options.seed)


def _warm(model: Model, reference: ModelSource | Model, seed: int) -> None:
    """Compile the model's kernels and remember what this machine runs faster without them, for the sessions to come."""
    from .runtime.warmup import warmup

    feeds = runnable_feeds(reference, 1, seed)
    if feeds:
        with collector_running():
            warmup(model, feeds[0], seconds=_WARM_SECONDS)
