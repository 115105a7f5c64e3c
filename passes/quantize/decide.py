"""Choose precision per unit: minimum cut, accuracy guard, cut anew, time."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from math import inf

from ...compress.context import StageContext
from ...compress.speed import GAIN
from ...ir import Model
from ...measure import figures, macs_at
from ...onnx_io import is_large
from .candidates.assignment import Assignment
from .candidates.calibrated_model import CalibratedModel
from .candidates.units import Unit, useful
from .chosen import Chosen, chosen_units
from .emit.qdq import build
from .errors.single_unit_errors import SingleUnitErrors
from .options import ALWAYS, MEASURED, Quantize
from .place.accuracy_guard import GuardResult, Judge, accept_unchanged, describe_limit, errors_alone, guard
from .place.bias_correction import with_bias_correction
from .place.latency_guard import TimedAssignment, fastest, min_cut_candidates, most_gain, needed_gain
from .place.mixed_precision import stored_bytes, with_mixed_precision
from .place.per_channel_activations import with_per_channel_activations
from .refit.apply import with_refit

SLIVER = 0.05
"""The share of multiply-accumulates below which integers must gain clearly, in time or size: by Amdahl's law a kernel
four times as fast on 5 % of the work gains 4 %, twice `GAIN` less one."""
CLEARLY = 1.0 + 2 * (GAIN - 1.0)
"""The ratio that counts as clearly faster: as far beyond `GAIN` as `GAIN` is beyond 1."""
SMALLER = 1.05
"""The ratio of constants' bytes, float over quantized, from which a model counts as smaller: a user notices a file
smaller by a twentieth; chosen, not tuned."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of the guards for a calibrated model.

    assignment: None leaves the model float. guarded: the accuracy guard's changes. speedup: over the float model; None
    where not timed. errors: of single units, where measured; predicted: by gradients.
    text: for the report. model: of the assignment.
    """

    calibrated: CalibratedModel
    assignment: Assignment | None
    guarded: GuardResult
    speedup: float | None
    errors: Mapping[Unit, float]
    text: str
    predicted: Mapping[Unit, float] = field(default_factory=dict)
    model: Model | None = None


def decide(model: Model, calibrated: CalibratedModel, context: StageContext) -> Decision:
    """Choose precision per unit: min-cut, accuracy guard, re-cut, time.

    Where one scale a tensor would return layers to float, or leave the model float, activations with scales a channel
    are tried first; likewise before layers are refitted, and the more accurate of both is refitted. The caller's
    placement is kept.
    """
    chosen = chosen_units(calibrated)
    if chosen.is_complete:
        return _as_chosen(with_refit(calibrated, context), chosen, context)
    decision = _decided(model, calibrated, context, chosen.floats | chosen.narrow)
    return _with_chosen(decision, chosen, context) if chosen.integers else decision


def _decided(
    model: Model, calibrated: CalibratedModel, context: StageContext, floats: frozenset[Unit] = frozenset()
) -> Decision:
    """The decision by accuracy and time; `floats` stay float in all timed candidates, too."""
    search = _Search(model, calibrated, context, floats)
    refits, always = calibrated.options.refits, calibrated.options.per_channel_activations == ALWAYS
    accepted = None if refits else accept_unchanged(search.candidates[0], search.judge)
    if accepted is not None and not always:
        return search.timed(accepted)
    per_channel = _per_channel(calibrated, context)
    if per_channel is not None:
        finer = _Search(model, per_channel, context, floats)
        before, after = (context.quality.fidelity(build(s.candidates[0])).sqnr_db for s in (search, finer))
        if always or after > before:
            decision = (finer.refitted() if refits else finer).decision()
            if decision.assignment is not None:
                return decision
    if refits:
        return search.refitted().decision()
    return search.timed(accepted or search.guarded())


def _per_channel(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel | None:
    """The calibrated model with scales a channel, bias-corrected as with one scale a tensor; None without any."""
    per_channel = with_per_channel_activations(calibrated, context)
    return None if per_channel is None else with_bias_correction(per_channel, context)


def _as_chosen(calibrated: CalibratedModel, chosen: Chosen, context: StageContext) -> Decision:
    """The caller's complete placement: nothing is timed, and accuracy decides only about scales a channel."""
    options, judge = calibrated.options, Judge(calibrated.options, context)
    assignment = chosen.applied(calibrated, chosen.completed(calibrated.assignment))
    always = options.per_channel_activations == ALWAYS
    if assignment.units and (always or not judge.accepts(assignment)):
        finer = _per_channel(calibrated, context)
        if finer is not None:
            finer = with_refit(finer, context)
            placed = chosen.applied(finer, chosen.completed(finer.assignment))
            fidelity = context.quality.fidelity
            if always or fidelity(build(placed)).sqnr_db > fidelity(build(assignment)).sqnr_db:
                calibrated, assignment = finer, placed
    return _placed(calibrated, assignment, judge)


def _with_chosen(decision: Decision, chosen: Chosen, context: StageContext) -> Decision:
    """The decision on the other layers, combined with the caller's layers on integers."""
    calibrated = decision.calibrated
    before = decision.assignment or calibrated.assignment.with_units(())
    placed = chosen.applied(calibrated, before).stored
    if placed.units == before.units and all(placed.codes[u.node] is before.codes[u.node] for u in chosen.integers):
        return decision
    new = _placed(calibrated, placed, Judge(calibrated.options, context))
    return replace(new, errors=decision.errors, predicted=decision.predicted)


def _placed(calibrated: CalibratedModel, assignment: Assignment, judge: Judge) -> Decision:
    assignment = assignment.stored
    if not assignment.units:
        text = "left float, as layers were chosen"
        return Decision(calibrated, None, GuardResult(assignment, frozenset(), (), "left float"), None, {}, text)
    guarded = GuardResult(assignment, frozenset(), (), judge.describe(assignment))
    text = f"{guarded.verdict}, as layers were chosen"
    return Decision(calibrated, assignment, guarded, None, {}, text, model=judge.built(assignment))


class _Search:
    """Candidate assignments of one calibrated model, judged and timed; `floats` stay float."""

    def __init__(
        self, model: Model, calibrated: CalibratedModel, context: StageContext, floats: frozenset[Unit] = frozenset()
    ) -> None:
        self.model, self.calibrated, self.context = model, calibrated, context
        self.floats = floats
        self.judge, self.errors = Judge(calibrated.options, context), SingleUnitErrors(calibrated, context)
        self.candidates = self._cut(calibrated.assignment.units - floats)

    def refitted(self) -> _Search:
        """The search on the model with layers refitted to their quantized inputs."""
        return _Search(self.model, with_refit(self.calibrated, self.context), self.context, self.floats)

    def decision(self) -> Decision:
        """The decision on the best candidate, changed by the guard where not accurate enough."""
        return self.timed(accept_unchanged(self.candidates[0], self.judge) or self.guarded())

    def guarded(self) -> GuardResult:
        """The best candidate, changed by the accuracy guard until accurate enough."""
        return guard(self.candidates[0], self.judge, self.errors)

    def timed(self, guarded: GuardResult) -> Decision:
        """Keep an accurate assignment, or a similar accurate one, if it is also fast."""
        calibrated, options = self.calibrated, self.calibrated.options
        if options.sensitivity:
            layers = [u for u in calibrated.units.layers if u in calibrated.assignment.units]
            self.errors.measure(layers)
            if options.sensitivity != MEASURED and not self.context.calibration.is_synthetic:
                self.errors.predict(layers)
        if not guarded.assignment.units:
            return self._decision(
                guarded, None, f"left float: {guarded.verdict}, {describe_limit(options, self.context)}"
            )
        if not options.speed or (options.mode == "weights" and is_large(self.model)):  # speed is only reported
            return self._decision(guarded, None, guarded.verdict, guarded.assignment)
        accurate = self._mixed(guarded)
        best = self._fastest(accurate)
        if best.assignment is None:
            accurate = {guarded.assignment: guarded, **self._others(guarded)}
            best = self._fastest(accurate)
        if best.assignment is None:
            return self._decision(guarded, 1.0, "left float: integers are not faster on this machine")
        chosen, gain = accurate[best.assignment], self._gain(best)
        if gain.is_noise:
            return self._decision(guarded, 1.0, f"left float: {gain}, which is noise")
        stored = f"{gain.fewer_bytes:.0%} fewer bytes, " if best.assignment.only_tables else ""
        pace = f"{best.speedup:.2f}× as fast{' as predicted' * best.is_predicted}"
        text = f"{stored}{pace}; {chosen.verdict}"
        return self._decision(chosen, best.speedup, text, best.assignment)

    def _decision(
        self, guarded: GuardResult, speedup: float | None, text: str, assignment: Assignment | None = None
    ) -> Decision:
        model = None if assignment is None else self.judge.built(assignment)
        assignment = None if assignment is None else assignment.stored
        return Decision(
            self.calibrated, assignment, guarded, speedup, self.errors.known, text, self.errors.predicted, model
        )  # fmt: skip

    def _gain(self, best: TimedAssignment) -> _Gain:
        """The gain of the fastest assignment, its measured speed limited to what is plausible."""
        assert best.assignment is not None
        share, speedup = share_of_macs(self.calibrated, best.assignment.units), best.speedup
        if _is_for_time(self.calibrated.options, self.context):
            speedup = min(speedup, most_gain(self.calibrated, best.assignment.units))
        least = CLEARLY if share < SLIVER else needed_gain(self.calibrated.options.mode)
        if best.assignment.only_tables:
            least = inf  # tables speed up no computation, whatever was measured
        before, after = figures(self.model).constant_bytes, stored_bytes(best.assignment)
        return _Gain(share, speedup, least, 1 - after / before if before else 0.0)

    def _fastest(self, accurate: Mapping[Assignment, GuardResult]) -> TimedAssignment:
        return fastest(self.model, list(accurate), self.calibrated.feed, self.context.target)

    def _cut(self, units: frozenset[Unit]) -> list[Assignment]:
        """Candidate assignments of `units`, all of them or those that gain, the most promising first."""
        every = self.calibrated.assignment.with_units(useful(units))
        options = self.calibrated.options
        if not _is_for_time(options, self.context):
            return [every]
        return min_cut_candidates(self.calibrated, every)

    def _mixed(self, guarded: GuardResult) -> dict[Assignment, GuardResult]:
        """Where accuracy returned units to float, or layers are refitted for accuracy: the assignment without further
        units that harm but hardly gain, if acceptable."""
        refits = self.calibrated.options.refits
        if self.context.target == "graphopt" or not (guarded.returned or refits):
            return {}
        errors = errors_alone(guarded.assignment, self.errors) if refits else self.errors.known
        mixed = with_mixed_precision(self.calibrated, guarded.assignment, errors)
        if mixed is None or not self.judge.left or not self.judge.accepts(mixed):
            return {}
        more = sorted(guarded.assignment.units - mixed.units, key=guarded.assignment.order.__getitem__)
        returned = (*guarded.returned, *more)
        return {mixed: GuardResult(mixed, guarded.finer & mixed.units, returned, self.judge.describe(mixed))}

    def _others(self, guarded: GuardResult) -> dict[Assignment, GuardResult]:
        """Other accurate assignments worth timing: the uncut one; where units returned to float, new cuts of the
        rest."""
        others = self.candidates[1:]
        if guarded.returned:
            others = [a for a in self._cut(guarded.assignment.units) if a.units != guarded.assignment.units]
        return {
            other: GuardResult(other, guarded.finer, guarded.returned, self.judge.describe(other))
            for other in others
            if self.judge.left and self.judge.accepts(other)
        }


@dataclass(frozen=True, slots=True)
class _Gain:
    """The gain of integers: their share of multiply-accumulates, the speed relative to the float model, the `least`
    speed that is not noise, and the share of the constants' bytes saved."""

    share: float
    speedup: float
    least: float
    fewer_bytes: float

    @property
    def is_noise(self) -> bool:
        """Whether neither time nor bytes are gained."""
        return self.speedup < self.least and SMALLER * (1 - self.fewer_bytes) >= 1

    def __str__(self) -> str:
        saved = f"{self.fewer_bytes:.0%} fewer" if self.fewer_bytes >= 0.005 else "no fewer"
        return f"{self.share:.0%} of MACs in int8 would gain at most {self.speedup:.2f}× and {saved} bytes"


def _is_for_time(options: Quantize, context: StageContext) -> bool:
    """Whether units are placed by their times in onnxruntime: not in mode weights, where every layer's bytes count,
    whatever its time."""
    return context.target != "graphopt" and options.speed and options.mode != "weights"


def share_of_macs(calibrated: CalibratedModel, units: Set[Unit]) -> float:
    """The share of the model's multiply-accumulates in `units`."""
    macs = macs_at(calibrated.model, calibrated.shapes)
    total = sum(macs.values())
    return sum(macs.get(u.node, 0) for u in units) / total if total else 0.0
