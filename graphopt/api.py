"""`graphopt.optimize`: lift, rewrite, emit, prove."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compress import order
from .compress.context import StageReport
from .errors import ModelError, OptionError
from .ir import FunctionId, Model, RewriteLog, clone_model, collector_paused, collector_running
from .measure import Figures, figures
from .ops import schema
from .pipeline import CheckPolicy, OnBlame, Outcome, Pass, Progress, Verdict, current, run
from .pipeline.repro import leave_repros
from .provenance import KEY, Trail
from .report import Report

if TYPE_CHECKING:
    import onnx

    from .equivalence import Comparison
    from .runtime import Session

TARGETS = ("portable", "onnxruntime", "graphopt")
SLACK_SHARE, SLACK_BYTES = 0.01, 4096
"""A file never grows by more than this share of its size plus these bytes."""
_WARM_SECONDS = 0.1  # of measuring each region and each runtime


@dataclass(frozen=True, slots=True)
class Result:
    """An optimised model, as IR and as ONNX (external data stays external), and the account of what was done."""

    ir: Model
    report: Report
    model: onnx.ModelProto

    def save(self, path: str | Path, *, external: bool | None = None) -> None:
        """Write the model; its data beside it when `external` asks for it or it exceeds 2 GB. OutputError."""
        from . import onnx_io

        onnx_io.save(self.ir, path, external=external)

    def session(self, threads: int | None = None) -> Session:
        """A `graphopt.Session` on the model: int8 kernels where they are faster, onnxruntime elsewhere."""
        from .runtime import session_of

        return session_of(self.ir, threads)


@collector_paused()
def optimize(
    model: Any,
    output: str | Path | None = None,
    *,
    passes: Sequence[Any] | None = None,
    skip: Sequence[str] = (),
    quantize: Any = None,
    prune: Any = None,
    calibration: Any = None,
    metric: Callable[[Any], float] | None = None,
    max_drop: float | None = None,
    target: str = "portable",
    input_shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    validate: bool = True,
    check: CheckPolicy = "end",
    provenance: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    repros: str | Path | None = None,
    on_blame: OnBlame | None = None,
) -> Result:
    """Optimise an ONNX model: the same results, fewer nodes, never a larger file.

    model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`. output: where to write the result.
    passes: an explicit schedule (names, `Pass` objects, rules) in place of the built-in one; skip: names to leave out.
    target: "portable" (standard operators), "onnxruntime" (its CPU provider's too) or "graphopt" (for the Session:
    its kernels are then compiled and measured beside onnxruntime, see `graphopt warmup`).
    input_shapes: sizes to fix, by input name; None or -1 leaves a size open. dims: the same by the size's name.
    opset: a later version of ONNX's operator set to convert the model to, first of all.
    validate: prove the result equal to the original, as `graphopt.compare` defines it; a rewrite that breaks it is
    found, taken back and reported; a result that cannot be proved is not returned, the original is, with the reason.
    check: "end" (default), "each" (after each pass) or "off". progress: called with (what, share done).
    repros: a folder for small models that show why a rewrite was taken back; on_blame: told of each in its place.
    provenance: let the file tell where each of its nodes comes from (`graphopt explain`), in a metadata entry that
    neither the figures nor the size limit count.

    The same input, options and seed give the same bytes. Raises `graphopt.GraphoptError` subclasses with one line.
    """
    if target not in TARGETS:
        raise OptionError(f"target {target!r} is not one of {', '.join(TARGETS)}")
    if check not in ("end", "each", "off"):
        raise OptionError(f"check {check!r} is not one of end, each, off")
    order.check_limit(metric, max_drop)
    from . import onnx_io

    if output is not None:
        onnx_io.check_target(output)
    start = time.perf_counter()
    plan = order.check(prune, quantize)
    lifted = onnx_io.load(model)
    _check_operators(lifted)
    before = figures(lifted, onnx_io.file_bytes(lifted, model))
    lifted.metadata.pop(KEY, None)  # it told of another run
    lifted.target = target
    lifted.size_limit = before.constant_bytes + int(SLACK_SHARE * before.constant_bytes) + SLACK_BYTES
    reference: Any = model
    if input_shapes or dims:
        from .passes.shapes.inputs import fix_dims, specialise_inputs

        specialise_inputs(lifted, input_shapes or {})
        fix_dims(lifted, dims or {})
        reference = clone_model(lifted)
    proof = _Proof(reference, before, seed) if validate and check != "off" else None
    schedule, last = [*_conversion(lifted, opset), *_schedule(passes, skip)], list[Pass]()
    if plan.wanted:  # pruning and quantization know no operators that only the target has
        from .passes import FOR_TARGET

        last = [item for item in schedule if item in FOR_TARGET]
        schedule = [item for item in schedule if item not in FOR_TARGET]
    context = None
    if plan.wanted:
        context = order.context(lifted, plan, calibration, metric, max_drop, target, seed, progress)
    if repros is not None and on_blame is None:
        on_blame = leave_repros(reference, Path(repros), seed)
    writing = _Writing(before) if proof is None else proof
    policy = "end" if proof is None else check
    outcome = run(lifted, schedule, check=writing, policy=policy, progress=progress, on_blame=on_blame)
    if proof is not None and proof.comparison is not None and proof.comparison.samples == 0:
        onnx_io.check(lifted)  # onnxruntime cannot run it: say so if that is because it is not valid
    _check_conversion(outcome, opset)
    finished, logs = outcome.model, [outcome.log]
    stages: tuple[StageReport, ...] = ()
    if context is not None:
        with collector_running():
            finished, stages = order.run_stages(
                outcome.model, plan, context, lambda model: _clean(model, schedule, validate, seed, logs)
            )
        finished = _clean(finished, last, validate, seed, logs) if last and target == "onnxruntime" else finished
    emitted = writing.emitted(finished)
    after = figures(finished, onnx_io.file_bytes(finished, emitted))
    trail = Trail(
        lifted, finished, tuple(logs), tuple(schedule), tuple(s.name.partition(" ")[0] for s in stages if s.changed)
    )
    report = _report(outcome, before, after, proof, time.perf_counter() - start, target, seed, trail)
    if context is not None:
        report = order.with_stages(report, stages, context, finished)
    if provenance:
        finished.metadata[KEY] = trail.provenance.to_json()
        emitted = onnx_io.to_proto(finished)
    if target == "graphopt":
        _warm(finished, reference, seed)
    result = Result(finished, report, emitted)
    if output is not None:
        result.save(output)
    return result


def _conversion(model: Model, opset: int | None) -> list[Pass]:
    """The pass that takes the model to the opset that is asked for. OptionError where it cannot go there."""
    if opset is None:
        return []
    from .passes.convert.opset import check_convertible, convert_opset

    convert = convert_opset(opset)
    check_convertible(model, opset)
    return [convert]


def _check_conversion(outcome: Outcome, opset: int | None) -> None:
    """OptionError with the reason where the conversion was taken back."""
    if opset is None or outcome.model.opset in (0, opset):
        return
    reasons = [taken.reason for taken in outcome.taken_back if taken.what in ("convert-opset", "*")]
    why = reasons[0].rpartition("OptionError: ")[2] if reasons else "no reason is known"
    raise OptionError(why if why.startswith("opset ") else f"opset {opset}: {why}")


def _warm(model: Model, reference: Any, seed: int) -> None:
    """Compile the model's kernels and remember what this machine runs faster without them, for the sessions to come."""
    from .pipeline.repro import runnable_feeds
    from .runtime.warmup import warmup

    feeds = runnable_feeds(reference, 1, seed)
    if feeds:
        with collector_running():
            warmup(model, feeds[0], seconds=_WARM_SECONDS)


def _check_operators(model: Model) -> None:
    """ModelError for an operator that ONNX's own domain does not have at the model's opset."""
    for body in (model, *(f.body for f in model.functions.values())):
        for node in body.graph.walk():
            if node.domain or schema(node) is not None or FunctionId("", node.op, node.overload) in model.functions:
                continue
            raise ModelError(f"node {node.name or node.op!r}: opset {body.opset} has no operator {node.op}")


def _clean(model: Model, schedule: Sequence[Pass], validate: bool, seed: int, logs: list[RewriteLog]) -> Model:
    """The exact passes once more, on what a lossy stage left; proved equal to it, else left as it is."""
    from . import onnx_io

    emitted = onnx_io.to_proto(model)
    size = figures(model, onnx_io.file_bytes(model, emitted))
    model.size_limit = size.constant_bytes + int(SLACK_SHARE * size.constant_bytes) + SLACK_BYTES
    check = _Proof(emitted, size, seed) if validate else _Writing(size)
    outcome = run(model, schedule, check=check, policy="end")
    logs.append(outcome.log)
    return outcome.model


def _schedule(passes: Sequence[Any] | None, skip: Sequence[str]) -> list[Pass]:
    registry = current()
    schedule = list(registry.schedule()) if passes is None else list(registry.resolve(passes))
    for name in skip:
        if not any(item.name == name for item in schedule):
            raise OptionError(f"skip {name!r}: the schedule has {', '.join(dict.fromkeys(p.name for p in schedule))}")
    return [item for item in schedule if item.name not in skip]


class _Writing:
    """The least check of the pipeline: the result can be written, and its size is within the budget."""

    def __init__(self, before: Figures) -> None:
        self.limit = None if before.file_bytes is None else int(before.file_bytes * (1 + SLACK_SHARE)) + SLACK_BYTES
        self._last: tuple[Model, onnx.ModelProto] | None = None

    def __call__(self, candidate: Model) -> Verdict:
        emitted = self._fitting(candidate)
        return emitted if isinstance(emitted, Verdict) else Verdict(True)

    def emitted(self, model: Model) -> onnx.ModelProto:
        """The model as ONNX; that of the last check where it is the same."""
        from . import onnx_io

        if self._last is not None and self._last[0] is model:
            return self._last[1]
        return onnx_io.to_proto(model)

    def _fitting(self, candidate: Model) -> onnx.ModelProto | Verdict:
        from . import onnx_io

        self._last = None  # two models' weights at once would be one too many
        try:
            emitted = onnx_io.to_proto(candidate)
        except Exception as error:  # what a pass from anywhere left may break anything
            return Verdict(False, f"the model cannot be written: {type(error).__name__}: {error}")
        size = onnx_io.file_bytes(candidate, emitted)
        if self.limit is not None and size > self.limit:
            return Verdict(False, f"the file would grow to {size} bytes, the limit is {self.limit}")
        self._last = candidate, emitted
        return emitted


class _Proof(_Writing):
    """The whole check: beyond that, results equal. Remembers the last comparison and its time.

    What cannot be verified is not accepted either: in doubt the original is kept.
    """

    def __init__(self, reference: Any, before: Figures, seed: int) -> None:
        super().__init__(before)
        self.reference, self.seed = reference, seed
        self.seconds = 0.0
        self.comparison: Comparison | None = None
        self.feeds: list[dict[str, Any]] | None = None

    def __call__(self, candidate: Model) -> Verdict:
        emitted = self._fitting(candidate)
        if isinstance(emitted, Verdict):
            return emitted
        self.comparison = self._compare(emitted, power=True)
        worst = max((o.error / o.allowed for o in self.comparison.outputs if o.allowed), default=0.0)
        return Verdict(self.comparison.status == "equal", self.comparison.reason, worst, self.comparison)

    def probe(self, candidate: Model) -> Verdict:
        """Whether it fails as the last candidate did, for less: inputs made up once, no power, inner values only where
        they alone told the difference.
        """
        from .pipeline.repro import runnable_feeds

        emitted = self._fitting(candidate)
        if isinstance(emitted, Verdict):
            return emitted
        if self.feeds is None:
            self.feeds = runnable_feeds(self.reference, 4, self.seed)
        last = self.comparison
        hidden = last is not None and all(o.status == "equal" for o in last.outputs)
        found = self._compare(emitted, self.feeds or None, power=False, intermediates=hidden)
        return Verdict(found.status == "equal", found.reason)

    def _compare(self, emitted: onnx.ModelProto, inputs: Any = None, **options: bool) -> Comparison:
        from .equivalence import compare

        start = time.perf_counter()
        comparison = compare(self.reference, emitted, inputs, seed=self.seed, **options)
        self.seconds += time.perf_counter() - start
        return comparison


def _evidence(comparison: Comparison) -> str:
    """On what grounds a result counts as equal."""
    worst = max((o.error / o.allowed for o in comparison.outputs if o.allowed), default=0.0)
    text = f"on {comparison.samples} samples, the largest error {worst:.1%} of what is allowed"
    return text if comparison.power is None else f"{text}, power {comparison.power:.0%}"


def _report(
    outcome: Outcome, before: Figures, after: Figures, proof: _Proof | None, seconds: float, target: str, seed: int,
    trail: Trail,
) -> Report:  # fmt: skip
    comparison = None if proof is None else proof.comparison
    if proof is None:
        status, reason = "not checked", "validation was off"
    elif comparison is None:
        status, reason = "equal", "nothing was changed"
    else:
        status, reason = comparison.status, comparison.reason or _evidence(comparison)
    checking = 0.0 if proof is None else proof.seconds
    return Report(
        before=before,
        after=after,
        effects=tuple(outcome.effects),
        taken_back=tuple(outcome.taken_back),
        status=status,
        reason=reason,
        comparison=comparison,
        notes=(),
        seconds=seconds - checking,
        seconds_checking=checking,
        target=target,
        seed=seed,
        trail=trail,
    )
