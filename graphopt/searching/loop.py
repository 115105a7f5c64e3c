"""The loop of a search: build, measure, correct the tables, solve again, until the budget ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..compress.choices import FLOAT16, FLOAT32
from ..errors import InputError, OptionError, one_line
from ..ir import Model
from ..pipeline import Progress
from .building import CALIBRATIONS, NEAREST, RANKINGS, recipe_of
from .costing import Uniform, tables_of
from .front import Front
from .lane import Lane
from .plan import Plan, alternating, plan_of
from .point import Point
from .structure import Structure, branch_labels, names_in, structure_of
from .sweep import TRIES, next_plans
from .tables import Tables
from .trials import Trials
from .words import (
    CHANNELS,
    METHODS,
    PRECISIONS,
    RANKING,
    RECOVERY,
    ROUNDING,
    STATIC,
    Budget,
)

BATCH = 4
"""Plans solved from the same tables, whatever the number of workers, so that the result does not depend on it."""
AS_FAST = 1.02
"""The half-precision model's time, as a share of float32's, up to which single layers may be half precision; the margin
is a clear interval's width. A runtime without half-precision arithmetic then casts weights once, at load time;
otherwise it casts around each layer."""
BORDERING = (STATIC, FLOAT16, "weights8")
"""Words given to every other layer of a model, whose time reveals the cost of borders."""
NARROWED = (0.25, 0.5)
"""Shares of all groups' channels removed in the models that measure time against width."""
_STARTING = 0.45
"""Share of the budget after which no more uniform models are built: the rest is for recipes by layer. A choice."""
_DEAR = 0.1
"""Largest share of the budget for building one pruned candidate. A choice."""
_FEW = 4
"""Samples for the errors of single layers: their order and shares matter, sums are corrected."""
_FINISHING = 0.3
"""Share of the budget for rebuilding the front's points carefully, where trials were quick, or for training them."""
_BETTER = 3.0
"""dB by which another calibration method must be better: half the noise. Scales per channel may cost time."""
_FRUITLESS = 4
"""Rounds of a dozen integer programs without a new plan that end a search. A choice."""
_BUILDS = 40
"""Careful candidates that a budget should afford; otherwise all are rounded to the nearest until the end. A front of
ten points needs a few times as many trials."""
_CAREFUL = 5.0
"""Build time of a careful candidate relative to a quick one (MobileNetV2, 16 samples: 8.7 s against 1.8 s)."""
_EARLY = 0.05
"""Largest predicted share of the budget for building the placed model carefully, before other trials. A choice."""
_AGAIN = 3.0
"""Time of rebuilding a point of the front carefully, relative to its quick build (Fashion MobileNet: 2.8 to 4.2)."""
_ALONE = 0.05
"""Largest share of the budget for errors of single layers: some hundred builds' time for many layers."""
_ONE, _RUNS = 0.2, 2.0
"""The time of measuring one layer's error: as a share of a uniform model's build time, plus runs of the model per
sample; guesses (rapidocr-rec: 0.6 s, of builds of 1.9 s; rapidocr-det: 0.55 s, of 0.7 s and runs of 0.06 s)."""


@dataclass(slots=True)
class Search:
    """A search in progress. uniform: measurements of uniform models, in which all layers have one word. method: of
    activation ranges. ranking: of a group's channels for removal. is_quick: weights are rounded to the nearest until
    the end.
    conversion: seconds to convert an element between float and codes."""

    trials: Trials
    budget: Budget
    space: tuple[str, ...]
    progress: Progress | None = None
    uniform: list[Uniform] = field(init=False, default_factory=list)
    method: str = field(init=False, default=CALIBRATIONS[0])
    ranking: str = field(init=False, default=RANKINGS[0])
    is_quick: bool = field(init=False, default=False)
    conversion: float = field(init=False, default=0.0)

    @property
    def lane(self) -> Lane:
        """The time measurement."""
        return self.trials.lane

    def run(self) -> Front:
        """Measure uniform models, then plan after plan; measurements of a killed run are read, not repeated."""
        trials = self.trials
        trials.original()
        try:
            self._alike()
            structure = None if self._is_over() else self._structure()
            if structure is not None:
                self._narrowed(structure)
                self._choose_effort()
                self._plans(self._affordable(structure))
            self._finish()
        except (OptionError, InputError) as error:
            trials.notes.append(f"ended early: {one_line(error)}")
        if trials.tables is None:
            trials.notes.append("the budget ended before a recipe was solved for: give more of it")
        trials.show()
        return trials.front()

    def _is_over(self, share: float = 1.0) -> bool:
        """Whether this share of the budget is spent."""
        seconds, trials = self.budget.seconds, self.budget.trials
        if trials is not None:
            return len(self.trials.history) > share * trials
        return self.trials.seconds >= share * (seconds or math.inf)

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            seconds, trials = self.budget.seconds, self.budget.trials
            share = len(self.trials.history) / (trials + 1) if trials else self.trials.seconds / (seconds or 1.0)
            self.progress(what, min(1.0, share))

    def _shared(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """The recipe with the entries shared by all candidates: calibration, ranking, and quick rounding."""
        method: dict[str, Any] = {} if self.method == CALIBRATIONS[0] else {METHODS: self.method}
        if "channels" in recipe:
            method[RANKING] = self.ranking
        return {**recipe, **method, **({ROUNDING: NEAREST} if self.is_quick else {})}

    def _alike(self) -> None:
        """Measure uniform models: the first trials, and the basis of the cost tables."""
        self._one({}, FLOAT32)
        self.is_quick = self.budget.seconds is not None
        for word in self.space:
            if word not in PRECISIONS:
                continue
            self._one({} if word == FLOAT16 else self._shared({}), word)
            if word == STATIC and METHODS in self.space and not self._is_over() and not self.trials.last.why:
                self._choose_method()
            if word == STATIC and any(one.word == STATIC for one in self.uniform):
                self._placed()

    def _has_care(self) -> bool:
        """Whether rebuilding the front's points carefully pays: not for slow models, where one such build takes the
        rest of the budget (rapidocr-rec: 73 s, 2.7 s to the nearest)."""
        made = [p.seconds for p in self.trials.history if p.recipe.get("layers") and "channels" not in p.recipe]
        return min(made, default=0.0) <= (self.budget.seconds or math.inf) / 100

    def _choose_effort(self) -> None:
        """Build candidates carefully where the budget affords enough of them, judged by the slowest of the first, quick
        ones, such as a pruned one. A budget in trials is always careful. Where care does not improve the all-static
        model, only the front's points are rebuilt carefully."""
        seconds = self.budget.seconds
        quick = [point.seconds for point in self.trials.history if ROUNDING in point.recipe and not point.why]
        if seconds is not None and quick and max(quick) * _CAREFUL * _BUILDS <= seconds:
            nearest = max((p.sqnr_db for p in self._all_static()), default=-math.inf)
            self.is_quick = False
            self._one(self._shared({}), STATIC)
            self.is_quick = max((p.sqnr_db for p in self._all_static()), default=nearest) <= nearest

    def _all_static(self) -> list[Point]:
        """The trials with all layers static, no channels removed, and this search's calibration method."""
        tried = [point for point in self.trials.history if not point.why and "channels" not in point.recipe]
        same = [point for point in tried if point.recipe.get(METHODS, CALIBRATIONS[0]) == self.method]
        return [p for p in same if {*p.recipe.get("layers", {}).values()} == {STATIC}]

    def _choose_method(self) -> None:
        """Try the methods for activation ranges on the all-static model; the best serves all later candidates."""
        best = self.trials.last
        for method in CALIBRATIONS[1:]:
            self._one({**self._shared({}), METHODS: method}, STATIC)
            last = self.trials.last
            if not last.why and last.sqnr_db > best.sqnr_db + _BETTER and last.recipe.get(METHODS) == method:
                best, self.method = last, method

    def _placed(self) -> None:
        """Try quantization's own placement of layers, so that the search never does worse than a call without it. Built
        carefully where that takes little of the budget: rounding to the nearest sends other layers back to float, such
        as MiniLM's embedding, and at the end time may be short."""
        trials, bench = self.trials, self.trials.bench
        if self._is_over(_STARTING):
            return
        self._tell("static int8, as it is placed")
        shared = self._shared({})
        is_careful = _CAREFUL * trials.last.seconds <= _EARLY * (self.budget.seconds or 0.0)
        record = trials.replay("placed")
        if record is None:
            start = time.monotonic()
            asked = _with_care(shared) if is_careful else shared
            layers = dict(self.lane.placed(trials.builder, recipe_of(
                asked, bench.target, bench.seed, uniform=STATIC, guarded=True
            )))  # fmt: skip
            record = {"layers": layers, "seconds": time.monotonic() - start}
            trials.store.add("placed", record)
        known = [point.recipe.get("layers") for point in trials.history]
        for recipe in (shared, _with_care(shared)) if is_careful else (shared,):
            if record["layers"] and record["layers"] not in known and not self._is_over():
                list(trials.run([{**recipe, "layers": record["layers"]}]))

    def _narrowed(self, structure: Structure) -> None:
        """Measure models with all groups narrowed, in float and on integers."""
        done: list[dict[str, int]] = [{group.name: group.size for group in structure.groups}]
        for share in NARROWED:
            widths = structure.widths(share)
            if widths in done:
                continue
            done.append(widths)
            for word in (FLOAT32, STATIC):
                if any(one.word == word for one in self.uniform) and not self._is_over(_STARTING):
                    self._one(self._shared({"channels": widths}), word)
                    if len(done) == 2 and word == FLOAT32:
                        self._choose_ranking(widths)

    def _choose_ranking(self, widths: dict[str, int]) -> None:
        """Try the other ranking of channels on the first narrowed model; the better one serves all later candidates."""
        first = self.trials.last
        if first.why or first.seconds > _EARLY / 2 * (self.budget.seconds or math.inf):
            return
        self._one({**self._shared({"channels": widths}), RANKING: RANKINGS[1]}, FLOAT32)
        last = self.trials.last
        if not last.why and last.recipe.get(RANKING) == RANKINGS[1] and last.sqnr_db > first.sqnr_db:
            self.ranking = RANKINGS[1]

    def _affordable(self, structure: Structure) -> Structure:
        """The structure; without groups where the budget does not afford pruned candidates."""
        seconds = self.budget.seconds
        narrowed = [point.seconds for point in self.trials.history if "channels" in point.recipe]
        has_choice = any(len(group.widths) > 1 for group in structure.groups)
        if seconds is None or not has_choice or (narrowed and min(narrowed) <= _DEAR * seconds):
            return structure
        self.trials.notes.append("channels stay: the budget suffices for too few models without some of them")
        return structure.without_groups()

    def _one(self, recipe: dict[str, Any], word: str) -> None:
        """Run a trial with one word for all layers."""
        if self._is_over():
            return
        self._tell(f"{word}, everywhere")
        trials, bench = self.trials, self.trials.bench
        record = trials.replay("alike")
        if record is None:
            start = time.monotonic()
            full = recipe_of(recipe, bench.target, bench.seed, uniform="" if word == FLOAT32 else word)
            built = trials.builder.build(full, keep=True)
            settled = {**recipe, **({"layers": dict(built.layers)} if built.layers else {})}
            point = trials.measured(settled, built, start)
            has_errors = word in (STATIC, "weights8") and not recipe.get("channels") and not built.why
            record = {
                "word": word, "point": point.to_dict(), "shares": self._shares(built.ir), "layers": dict(built.layers),
                "errors": self._errors(recipe, word, built.layers, point.seconds) if has_errors else {},
                "seconds": time.monotonic() - start,
            }  # fmt: skip
            trials.store.add("alike", record)
        trials.add(Point.of(record["point"]))
        self._note(record)

    def _errors(self, recipe: dict[str, Any], word: str, layers: Mapping[str, str], seconds: float) -> dict[str, float]:
        """The errors of single layers, on few samples, once for all words: each word's uniform model shows its common
        factor. {} where that takes too much of the budget; `seconds`: build time of the uniform model."""
        trials, bench = self.trials, self.trials.bench
        if any(one.errors for one in self.uniform):
            return {}
        each = _ONE * seconds + _RUNS * _FEW * (trials.run_seconds or 0.0)
        if each * len(layers) > _ALONE * (self.budget.seconds or math.inf):
            return {}
        full = recipe_of(recipe, bench.target, bench.seed, uniform=word, sensitivity=True)
        return dict(trials.builder.on(trials.samples[:_FEW], full).build(full).errors)

    def _note(self, record: dict[str, Any]) -> None:
        """Keep the measurements of a uniform model, once for each word."""
        point, word = self.trials.last, record["word"]
        channels = point.recipe.get("channels", {})
        if point.latency is None or point.why:
            return
        if channels or all(one.word != word for one in self.uniform):
            told = (record["shares"], record["layers"], channels, record["errors"])
            self.uniform.append(Uniform(word, point.latency, *told))

    def _shares(self, model: Model | None) -> dict[str, float]:
        if model is None:
            return {}
        known, labels = names_in(model), branch_labels(model)
        origins = [labels.get(node, "") + origin for node in known for origin in node.origins]
        return self.lane.shares(model, list(dict.fromkeys([*known.values(), *origins])))

    def _structure(self) -> Structure | None:
        """The structure of the optimized model; None where there is nothing to decide."""
        trials, bench = self.trials, self.trials.bench
        record = trials.replay("structure")
        if record is None:
            start = time.monotonic()
            base = trials.builder.base(recipe_of({}, bench.target, bench.seed, uniform=STATIC))
            found = structure_of(base, trials.samples, bench.seed, channels=CHANNELS in self.space, quick=self.is_quick)
            record = {"structure": found.to_dict(), "conversion": self.lane.conversion()}
            record["seconds"] = time.monotonic() - start
            trials.store.add("structure", record)
        structure, self.conversion = Structure.of(record["structure"]), record["conversion"]
        if not structure.groups and all(one.word == FLOAT32 for one in self.uniform):
            trials.notes.append("no layer of the model can be quantized, and no channels can be removed")
            return None
        return structure if any(one.word == FLOAT32 for one in self.uniform) else None

    def _plans(self, structure: Structure) -> None:
        """Solve, build, measure, correct, until the budget ends or no new plan is predicted."""
        trials = self.trials
        fast = AS_FAST * next(one.latency for one in self.uniform if one.word == FLOAT32)
        mixed = [one for one in self.uniform if one.word != FLOAT16 or one.latency <= fast]
        tables = tables_of(structure, mixed, trials.history[0].size, self.conversion, trials.run_seconds or 1.0)
        tried: list[Plan] = []
        for word in BORDERING:
            every_other = alternating(tables.decisions, word)
            if any(every_other) and not self._is_over(_STARTING):
                self._tell(f"{word}, every other layer")
                list(trials.run([self._shared(tables.recipe(every_other))]))
        trials.tables = tables
        for point in trials.history:
            known = (point.recipe.get(METHODS, self.method), point.recipe.get(RANKING, self.ranking))
            if known == (self.method, self.ranking):
                _learn(tables, point, tried)
        is_remade = (self.is_quick and self._has_care()) or RECOVERY in self.space
        share, turn, fruitless = 1.0 - _FINISHING if is_remade else 1.0, 0, 0
        while not self._is_over(share):
            plans = next_plans(tables, tried, trials.history, trials.objectives, BATCH, turn)
            fruitless = 0 if plans else fruitless + 1
            if not plans and fruitless < _FRUITLESS:
                turn += TRIES * BATCH
                continue
            if not plans:
                trials.notes.append("ended before the budget: no new recipe is predicted to be on the front")
                break
            turn += TRIES * BATCH
            tried += plans  # also where a layer cannot have its word
            self._tell(f"trial {len(trials.history)}")
            for point in trials.run([self._shared(tables.recipe(plan)) for plan in plans]):
                self._tell(f"trial {len(trials.history)}")
                _learn(tables, point, tried)
                if self._is_over(share):
                    break

    def _finish(self) -> None:
        """Rebuild the front's points carefully where they were quick, and train them where requested; then confirm the
        front on held-out samples."""
        better: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        if self.is_quick and self._has_care():
            better.append(_with_care)
        if RECOVERY in self.space:
            better.append(lambda recipe: {**recipe, RECOVERY: "distil"})
        for change in better:
            for point in sorted(self.trials.front().points[1:], key=lambda p: "channels" in p.recipe):  # slow ones last
                changed = change(dict(point.recipe))
                left = (self.budget.seconds or math.inf) - self.trials.seconds
                is_long = RECOVERY not in changed and _AGAIN * point.seconds > left
                is_known = any(one.recipe == changed for one in self.trials.history)
                if is_known or is_long or self._is_over():
                    continue
                self._tell(f"{point.name}, with all care")
                list(self.trials.run([changed]))
        self._tell("confirm")
        self.trials.confirm()


def _with_care(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without quick rounding."""
    return {key: value for key, value in recipe.items() if key != ROUNDING}


def _learn(tables: Tables, point: Point, tried: list[Plan]) -> None:
    """Correct the tables by a point, and note its plan as tried."""
    plan = plan_of(tables.decisions, point.recipe)
    if plan is None or point.is_original:
        return
    if plan not in tried:
        tried.append(plan)
    if not point.why:
        measured = {"latency": point.latency or 0.0, "size": float(point.size)}
        if any(plan):
            measured["noise"] = 10.0 ** (-point.sqnr_db / 10.0)
        tables.observe(plan, measured)
