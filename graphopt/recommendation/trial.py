"""`graphopt.recommend`: run the plausible modes, measure size, speed and quality, and choose one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import onnx_io
from ..api import optimize_as
from ..arguments import check_arguments
from ..errors import Declined, GraphoptError, InputError, ModelError, OptionError, one_line
from ..machine.files import check_target, replace_file, reported
from ..measure import Timing, show_db
from ..options import Compression, Options, Runtime, Target, as_precision, as_prune, as_quantize
from ..pipeline import Progress
from .choosing import WAYS, Made, Way, choose, is_open
from .data import Mode, Recommendation
from .workbench import LEAST, Workbench

if TYPE_CHECKING:
    from ..calibration import CalibrationData, Preprocess
    from ..measure import Metric
    from ..onnx_io.source import ModelSource

FALL = 0.01
"""The largest allowed fall of a metric, as a share of the original's, where no `max_drop` is given."""
MIN_SQNR, MIN_TOP1 = 15.0, 0.9
"""The floor without a metric: that of `graphopt.Quantize`, on the calibration samples."""


def recommend(
    model: ModelSource,
    calibration: CalibrationData = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    *,
    preprocess: str | Preprocess | None = None,
    target: Runtime = "portable",
    out: str | os.PathLike[str] | None = None,
    seconds: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recommendation:
    """Try the plausible modes on a model, and choose the least lossy one that no other clearly beats.

    model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`. calibration: typical inputs, as for `optimize`; without
    it, only modes that need no data run, and the choice is among exact modes. metric: a function of a session, higher
    is better; max_drop: how far it may fall, a hundredth of the original's where it is not given. Without a metric, on
    held-out samples, results must keep 15 dB over all samples and on nine of ten single ones, and 90 % of the classes;
    fewer than four samples leave none to hold out, and then no mode that needs data is chosen. A pruned model never is:
    few samples do not reveal the cost of pruning. preprocess: of a folder of images.
    target: the runtime that files are for. out: a folder for the file of each mode and `recommendation.json`. seconds:
    of timing, a mode; speed is measured in onnxruntime on one thread, interleaved, by this thread's own time, and again
    where its interval leaves a choice open; where it stays unclear, the less lossy mode is kept. progress: called with
    (step, fraction done).

    Raises `graphopt.GraphoptError` subclasses with one line.
    """
    check_arguments(recommend, locals())
    if max_drop is not None and metric is None:
        raise OptionError("max_drop= needs metric=")
    folder = _folder(out)
    bench = Workbench(model, calibration, preprocess, metric, target, seed)
    return Trial(bench, max_drop, folder, seconds, progress).run()


def _folder(out: str | os.PathLike[str] | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    with reported(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    check_target(folder / "recommendation.json")
    return folder


@dataclass(slots=True)
class Trial:
    """A recommendation in progress."""

    bench: Workbench
    max_drop: float | None
    out: Path | None
    seconds: float
    progress: Progress | None
    rows: dict[str, Mode] = field(init=False, default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Warnings for the reader."""
        return self.bench.notes

    def run(self) -> Recommendation:
        """Run, judge and time the modes, and choose one."""
        bench = self.bench
        if bench.quality is None:
            self.notes.append("no calibration data was given: what a lossy mode costs is not known, none is chosen")
        elif bench.metric is not None and self.max_drop is None:
            self.max_drop = FALL * abs(bench.quality.base)
        before = onnx_io.file_bytes(bench.original, bench.model)
        base = None if bench.quality is None or bench.metric is None else bench.quality.base
        self.rows["original"] = Mode("original", "", False, before, 1.0, metric=base)
        made = [one for one in map(self._make, self._ways()) if one is not None]
        self._time(made)
        chosen = choose(made, self.rows)
        modes = tuple(self.rows.values())
        recommendation = Recommendation(modes, tuple(self.notes), chosen.result)
        if self.out is not None:
            text = recommendation.to_json().encode()
            with reported(str(self.out)):
                replace_file(os.fspath(self.out / "recommendation.json"), lambda file: file.write(text), durable=False)
        return recommendation

    def _tell(self, what: str, share: float) -> None:
        if self.progress is not None:
            self.progress(what, share)

    def _ways(self) -> Iterator[Way]:
        """The modes to run, lazily: one mode's result may rule out a later mode."""
        for number, way in enumerate(WAYS):
            self._tell(way.name, number / (len(WAYS) + 1))
            if way.needs_data and self.bench.calibration is None:
                self.rows[way.name] = Mode(way.name, "not run: it needs calibration data")
            elif way.prune is not None and self.rows["static"].file_bytes is None:
                self.rows[way.name] = Mode(way.name, "not run: static alone is no gain here")
            else:
                yield way

    def _make(self, way: Way) -> Made | None:
        """Run a mode, and judge its quality; None where it fails, or changes nothing beyond the exact passes."""
        compression = Compression(
            quantize=as_quantize(way.quantize), prune=as_prune(way.prune), precision=as_precision(way.precision),
            calibration=self.bench.taught, metric=self.bench.metric if way.is_lossy else None,
            max_drop=self.max_drop if way.is_lossy else None,
        )  # fmt: skip
        options = Options(target=Target(runtime=self.bench.target), compression=compression, seed=self.bench.seed)
        try:
            result = optimize_as(self.bench.model, options)
        except (GraphoptError, Declined) as error:
            if not way.is_lossy:
                raise
            self.rows[way.name] = Mode(way.name, f"failed: {one_line(error)}")
            return None
        stages = result.report.stages
        if way.is_lossy and not any(stage.changed for stage in stages):
            self.rows[way.name] = Mode(way.name, "; ".join(f"no gain: {stage.summary}" for stage in stages))
            return None
        if not way.is_lossy and result.report.status != "equal":
            self.notes.append(f"{way.name}: {result.report.status} {result.report.reason}")
        mode = Mode(way.name, "", False, onnx_io.file_bytes(result.ir, result.model), command=self._command(way))
        made = Made(way, mode, result)
        if way.is_lossy:
            self._judge(made)
        if self.out is not None:
            path = self.out / f"{self._stem()}.{way.name.replace(' + ', '-')}.onnx"
            result.save(path)
            made.mode = replace(made.mode, path=str(path))
        self.rows[way.name] = made.mode
        return made

    def _judge(self, made: Made) -> None:
        """Set the mode's figures of quality, and whether they suffice."""
        quality = self.bench.quality
        if quality is None:
            made.is_fit, made.mode = False, replace(made.mode, why="give --calibration to learn what it costs")
            return
        fidelity = quality.fidelity(made.result.ir)
        made.mode = replace(made.mode, fidelity=fidelity)
        if self.bench.metric is not None:
            known = made.result.report.metric
            score = known[1] if known is not None else quality.score(made.result.ir)
            made.mode = replace(made.mode, metric=score)
            fall = quality.base - score
            if self.max_drop is not None and fall > self.max_drop:
                made.is_fit, why = False, f"the metric falls by {fall:.4g}, {self.max_drop:.4g} is allowed"
                made.mode = replace(made.mode, why=why)
        elif fidelity.sqnr_db < MIN_SQNR or (fidelity.top1 is not None and fidelity.top1 < MIN_TOP1):
            why = f"{fidelity} is below {MIN_SQNR:g} dB and {MIN_TOP1:.0%}"
            made.is_fit, made.mode = False, replace(made.mode, why=why)
        elif fidelity.low_db < MIN_SQNR:
            why = f"some samples keep only {show_db(fidelity.low_db)} dB, nine of ten must keep {MIN_SQNR:g}"
            made.is_fit, made.mode = False, replace(made.mode, why=why)
        elif not self.bench.is_judged and made.way.needs_data:
            made.is_fit, why = False, f"give {LEAST} samples at least, to judge it by others than those that made it"
            made.mode = replace(made.mode, why=why)
        elif made.way.prune is not None:
            made.is_fit = False
            made.mode = replace(made.mode, why="only a metric tells what pruning costs: give --metric")

    def _time(self, made: Sequence[Made]) -> None:
        """Time all modes side by side, and again while an interval contains a threshold of the choice."""
        self._tell("timing", len(WAYS) / (len(WAYS) + 1))

        def is_clear(found: Sequence[Timing]) -> bool:
            self._note(made, found)
            return not any(is_open(one, other) for one in made for other in made if one.is_fit and other.is_fit)

        try:
            turns = list(self.bench.timings({one.way.name: one.result.ir for one in made}, self.seconds, is_clear))
            if not turns:
                self.notes.append("no inputs were found that the model runs on: nothing was timed")
        except (ModelError, InputError) as error:
            self.notes.append(f"nothing was timed: {one_line(error)}")

    def _note(self, made: Sequence[Made], timings: Sequence[Timing]) -> None:
        speeds = {timing.label: timing for timing in timings}
        for one in made:
            timing = speeds[one.way.name]
            one.mode = replace(one.mode, speed=timing.ratio, error=timing.error)
            self.rows[one.way.name] = one.mode

    def _command(self, way: Way) -> str:
        name = os.fspath(self.bench.model) if isinstance(self.bench.model, (str, os.PathLike)) else "MODEL"
        data = ""
        if way.is_lossy and self.bench.calibration is not None:
            given = os.fspath(self.bench.given) if isinstance(self.bench.given, (str, os.PathLike)) else "DATA.npz"
            data = f" --calibration {given}"
            data += f" --preprocess {self.bench.preprocess}" if isinstance(self.bench.preprocess, str) else ""
        target = "" if self.bench.target == "portable" else f" --target {self.bench.target}"
        return f"graphopt optimize {name}{way.options}{data}{target}"

    def _stem(self) -> str:
        return Path(self.bench.model).stem if isinstance(self.bench.model, (str, os.PathLike)) else "model"
