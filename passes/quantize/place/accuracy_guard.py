"""The accuracy guard: units get finer codes, then return to float, until the results meet the floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....compress.context import StageContext
from ....compress.report import NOT_MEASURED
from ....equivalence.metrics import sqnr_text
from ....ir import Model
from ....measure import Fidelity, figures
from ....onnx_io import is_large
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit
from ..emit.qdq import build
from ..errors.rounded_inputs import harmful_inputs
from ..errors.single_unit_errors import SingleUnitErrors
from ..options import Quantize
from .cost_model import CALL, measure_costs

ONE_BY_ONE = 48
"""The most units to measure by quantizing each alone; more units are ranked by predicted errors, since each costs a
session, and without predictions by estimated noise. `python -m tests.bench.zoo_int8` has models on either side of the
limit."""
COPIED = 1 << 30
"""The most bytes of weights copied by sessions of single layers, in mode dynamic, where errors can be predicted:
reading, checking and packing 1 GiB takes a second and a half of one core. MiniLM has 90 MB and 26 layers. A choice."""

TRIED = 1 << 32
"""The most bytes of weights that trials read which spare single changed units, beside those of the bisection, at most 8
for 200 layers. Of SmolLM2's 0.6 GB these are six of the 200 trials that int2 took before; of ResNet50's, as many as
it has layers."""


@dataclass(frozen=True, slots=True)
class GuardResult:
    """The assignment that met the guard (without units when none did).

    finer: units with finer codes, in mode dynamic those whose codes are read as floats. returned: units returned to
    float. verdict: the judge's description.
    """

    assignment: Assignment
    finer: frozenset[Unit]
    returned: tuple[Unit, ...]
    verdict: str


class Judge:
    """Judges whether the model of an assignment meets the floor, and describes its quality."""

    def __init__(self, options: Quantize, context: StageContext) -> None:
        self.options, self.context = options, context
        self._last: tuple[Assignment, Model] | None = None

    def accepts(self, assignment: Assignment) -> bool:
        """Whether the assignment's model is good enough."""
        return is_good_enough(self.built(assignment), self.options, self.context)

    def describe(self, assignment: Assignment) -> str:
        """The quality of the assignment's model and the limit, in words."""
        if is_free(self.options, self.context):
            return "results not compared: the floor is off"
        model, quality, limit = self.built(assignment), self.context.quality, self.context.max_drop
        if self.context.calibration.is_synthetic:
            close = NOT_MEASURED
        else:
            fidelity = quality.fidelity(model)
            agreement = agreement_of(fidelity, self.options)
            close = sqnr_text(fidelity.sqnr_db)
            if agreement is not None:
                close += f", top-1 agreement {agreement:.2%}"
            close += fidelity.tokens + fidelity.texts
        if quality.metric is not None and limit is not None:
            return f"metric falls by {quality.drop(model):.4f} of {limit:g} allowed; {close}"
        fall = "" if quality.metric is None else f"metric falls by {quality.drop(model):.4f}; "
        floor = "" if self.context.calibration.is_synthetic else f" ({describe_floor(self.options, self.context)})"
        return f"{fall}{close}{floor}"

    @property
    def left(self) -> int:
        """How many more assignments may be judged."""
        if self.context.quality.metric is not None and self.context.max_drop is not None:
            return self.context.quality.left
        return 1 if is_free(self.options, self.context) else self.options.evaluations

    def built(self, assignment: Assignment) -> Model:
        """The model of an assignment; the last one is cached, since it is judged, described, and perhaps the result."""
        if self._last is None or self._last[0] is not assignment:
            self._last = (assignment, build(assignment))
        return self._last[1]


def is_good_enough(model: Model, options: Quantize, context: StageContext) -> bool:
    """Whether a model passes: by the metric where its fall has a limit, else by the floor on fidelity."""
    quality, limit = context.quality, context.max_drop
    if quality.metric is not None and limit is not None:
        return quality.drop(model) <= limit + 1e-12
    if is_free(options, context):
        return True
    fidelity = quality.fidelity(model)
    if judges_tokens(options, context) and fidelity.divergence is not None:
        return fidelity.divergence <= options.kl_limit
    if judges_texts(options, context) and fidelity.cosine is not None and fidelity.cosine < options.min_cosine:
        return False
    agreement = agreement_of(fidelity, options)
    return fidelity.sqnr_db >= options.min_sqnr and (agreement is None or agreement >= options.min_top1)


def judges_tokens(options: Quantize, context: StageContext) -> bool:
    """Whether a language model is judged by the divergence of its next-token distributions: stored weights may lose it
    15 dB, and hardly a token."""
    return options.mode != "static" and options.judge == "auto" and bool(context.quality.next_tokens)


def judges_texts(options: Quantize, context: StageContext) -> bool:
    """Whether a text encoder is also judged by its embedding vectors."""
    return options.judge == "auto" and bool(context.quality.embeddings)


def agreement_of(fidelity: Fidelity, options: Quantize) -> float | None:
    """The agreement of largest elements that the judge considers; None where it judges by SQNR alone."""
    return {"auto": fidelity.top1, "top1": fidelity.largest, "sqnr": None}[options.judge]


def describe_floor(options: Quantize, context: StageContext) -> str:
    """The floor on fidelity, with the judged figures and the reason."""
    makers = ", ".join(sorted({op.rpartition("::")[2] for op in context.quality.classifications.values()}))
    why = f"classes by {makers}" if makers else "no result holds scores of classes"
    why = why if options.judge == "auto" else f"judge {options.judge}"
    if judges_tokens(options, context):
        return f"at most KL {options.kl_limit:g}; {why}"
    top1 = options.judge == "top1" or (options.judge == "auto" and makers)
    texts = f", cosine {options.min_cosine:g}" if judges_texts(options, context) else ""
    return f"floor {options.min_sqnr:g} dB{texts}{f', {options.min_top1:.0%} of top-1' if top1 else ''}; {why}"


def describe_limit(options: Quantize, context: StageContext) -> str:
    """The limit of `is_good_enough` in words."""
    if context.quality.metric is not None and context.max_drop is not None:
        return f"a metric that falls by at most {context.max_drop:g}"
    made_up = ", on made-up inputs" if context.calibration.is_synthetic else ""
    return describe_floor(options, context) + made_up


def is_free(options: Quantize, context: StageContext) -> bool:
    """Whether the options set no requirement on results."""
    return (
        context.quality.metric is None
        and options.min_sqnr == -np.inf
        and (options.min_top1 <= 0 or options.judge == "sqnr")
    )


def accept_unchanged(assignment: Assignment, judge: Judge) -> GuardResult | None:
    """The unchanged assignment, where good enough; else None."""
    return GuardResult(assignment, frozenset(), (), judge.describe(assignment)) if judge.accepts(assignment) else None


def guard(assignment: Assignment, judge: Judge, errors: SingleUnitErrors) -> GuardResult:
    """Change units until an assignment is good enough, as few as the budget of evaluations can find: finer codes first,
    then float.

    In mode dynamic finer codes are 8-bit weights read by float products. Where not even all of these suffice, layers
    return to float beside others with quantized inputs: for speed, not for size.
    """
    calibrated = errors.calibrated
    is_dynamic = assignment.options.mode == "dynamic"
    is_measured = is_dynamic and judges_tokens(judge.options, judge.context) and bool(calibrated.finer)
    guess = 0
    if is_measured:
        order, guess = harmful_inputs(assignment, calibrated.finer, judge.context, judge.options.kl_limit)
    else:
        order = _by_harm(assignment, errors)
    if calibrated.finer:
        finer = [u for u in order if u.linear is not None and (u.node in calibrated.finer or not is_dynamic)]

        def accepts(units: Sequence[Unit]) -> bool:
            return judge.accepts(refine(calibrated, assignment, units))

        count = guess if guess and accepts(finer[:guess]) else None
        count = _fewest(len(finer), lambda n: accepts(finer[:n]), judge) if count is None else count
        if count is not None:
            chosen = finer[:count] if is_measured else _needed(finer[:count], accepts, judge)
            refined = refine(calibrated, assignment, chosen)
            return GuardResult(refined, frozenset(chosen), (), judge.describe(refined))
        assignment = assignment if is_dynamic else refine(calibrated, assignment, finer)
    count = _fewest(len(order), lambda n: judge.accepts(assignment.without(order[:n])), judge)
    if count is None or count == len(order):
        return GuardResult(assignment.with_units(()), frozenset(), tuple(order), "no placement meets it")
    returned = _needed(order[:count], lambda units: judge.accepts(assignment.without(units)), judge)
    rest = assignment.without(returned)
    are_refined = bool(calibrated.finer) and not is_dynamic
    refined_units = frozenset(u for u in rest.units if u.linear is not None) if are_refined else frozenset()
    return GuardResult(rest, refined_units, tuple(returned), judge.describe(rest))


def refine(calibrated: CalibratedModel, assignment: Assignment, units: Iterable[Unit]) -> Assignment:
    """The assignment with finer codes for `units`, and for units that share their weights."""
    first_of = assignment.shared.codes_of
    chosen = {first_of.get(u.node, u.node) for u in units}
    finer = {n: calibrated.finer[n].codes for n in calibrated.finer if first_of.get(n, n) in chosen}
    return replace(assignment, codes={**assignment.codes, **finer})


def _needed(changed: Sequence[Unit], accepts: Callable[[list[Unit]], bool], judge: Judge) -> list[Unit]:
    """The changed units needed for acceptance: drops the least harmful first, while the budget lasts, in at most as
    many trials as read `TRIED` bytes of weights together; for large models all changed units.

    The last unit is needed: without it bisection failed. The next few may stand there only because they are ranked too
    harmful; few that harm more can be spared.
    """
    kept, reference = list(changed), judge.context.quality.reference
    trials = 0 if is_large(reference) else min(judge.left, TRIED // max(figures(reference).constant_bytes, 1))
    for unit in list(reversed(changed[:-1]))[:trials]:
        if judge.left < 2:
            break
        fewer = [u for u in kept if u is not unit]
        if accepts(fewer):
            kept = fewer
    return kept


def _fewest(total: int, accepts: Callable[[int], bool], judge: Judge) -> int | None:
    """The least accepted n in 1 … total, by bisection; None if not even `total` is accepted."""
    low, high = 0, total
    if total == 0 or judge.left < 1 or not accepts(total):
        return None
    while high - low > 1 and judge.left > 1:
        middle = (low + high) // 2
        if accepts(middle):
            high = middle
        else:
            low = middle
    return high


def _by_harm(assignment: Assignment, errors: SingleUnitErrors) -> list[Unit]:
    """Units, the most harmful first: by the error of each alone, measured or predicted, else by estimated noise, as for
    large models.

    Where speed is requested, by the squared error per second gained: large gains may harm more.
    """
    calibrated, units = errors.calibrated, _changeable(assignment, errors)
    is_dear = assignment.options.mode == "dynamic" and len(units) * figures(calibrated.model).constant_bytes > COPIED
    if is_dear:
        errors.predict(units)
    if is_dear and all(u in errors.predicted for u in units):
        return _by_half(units, errors)
    known = errors_alone(assignment, errors)
    if not all(u in known for u in units):
        return sorted(units, key=lambda u: -_estimated_noise(calibrated, u))
    if not calibrated.options.speed or calibrated.options.mode != "static" or assignment.target == "graphopt":
        return sorted(units, key=lambda u: -known[u])
    costs = measure_costs(calibrated.assignment, calibrated.feed, calibrated.shapes)
    gains = {u: max(costs.as_float[u] - costs.as_codes[u], CALL) for u in units}
    return sorted(units, key=lambda u: -(known[u] ** 2) / gains[u])


def errors_alone(assignment: Assignment, errors: SingleUnitErrors) -> Mapping[Unit, float]:
    """The error of each unit alone: measured where units are few, else predicted, where possible. Empty for large
    models: each session would read all weights."""
    units = _changeable(assignment, errors)
    if is_large(errors.calibrated.model):
        return {}
    if len(units) <= ONE_BY_ONE:
        errors.measure(units)
        return errors.known
    errors.predict(units)
    return errors.predicted


def _changeable(assignment: Assignment, errors: SingleUnitErrors) -> list[Unit]:
    """The units of an assignment that round values, in the model's order."""
    return [u for u in errors.calibrated.units.members if u in assignment.units and not u.passes_codes]


def _by_half(units: Sequence[Unit], errors: SingleUnitErrors) -> list[Unit]:
    """Units, the most harmful first, where sessions are expensive: the worse half by prediction is measured, the rest
    stays in predicted order. To first order MiniLM's most harmful layer ranks only ninth of 26."""
    predicted = sorted(units, key=lambda u: -errors.predicted[u])
    worse, rest = predicted[: (len(units) + 1) // 2], predicted[(len(units) + 1) // 2 :]
    if len(units) > ONE_BY_ONE:
        return predicted
    errors.measure(worse)
    return [*sorted(worse, key=lambda u: -errors.known[u]), *rest]


def _estimated_noise(calibrated: CalibratedModel, unit: Unit) -> float:
    """The estimated noise-to-signal ratio, in dB, of quantizing a unit: rounding of its result, and of its weights."""
    solved = calibrated.solved.get(unit.node)
    if unit.output not in calibrated.extents:
        error = None if solved is None else solved.error
        return 20.0 * math.log10(error) if error else -math.inf
    grid, extent = calibrated.assignment.grids[unit.output], calibrated.extents[unit.output]
    spread = max(float(extent.high) - float(extent.low), 1e-30) / 6
    noise = grid.scale**2 / 12
    if solved is not None and solved.after is not None and unit.linear is not None:
        noise += solved.after / unit.linear.channels
    return float(10 * np.log10(max(noise, 1e-30) / spread**2))
