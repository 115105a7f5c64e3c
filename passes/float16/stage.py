"""The stage of half precision: convert nodes as data allow; nodes with the costliest rounding stay float32."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ...compress.choices import FLOAT16, FLOAT32, QUANTIZED, STORED16, check_names
from ...compress.context import StageContext
from ...compress.report import NOT_MEASURED, StageReport
from ...errors import OptionError
from ...ir import Model, Node, clone_model
from .assign import WEIGHT, Candidates, assign, candidates
from .chosen import choices_of, chosen, named
from .constants import SMALLEST_NORMAL, clamp_masks
from .emit import build, rounded, stored
from .options import Float16
from .ranges import unfit
from .report import Float16Figures, KeptNode, kept_text, name_of
from .slots import is_float

_PARTS, _PIECES = 16, 24
"""Parts of a graph rounded separately where the whole loses too much, and pieces of returned parts: each costs a
session and a few runs."""
_FEW = 4
"""Samples for judging a part."""
_LITTLE = 0.05
"""The share of float32 in the constants of a quantized model below which conversion would only add Casts. A choice."""
_VALUE_FLOOR = 55.0
"""The least SQNR (dB) of a value rounded to float16: ten more than the default floor of whole results, so that ten such
values in a row still meet the floor. Values in the format's normal range have about 74."""


def to_float16(model: Model, options: Float16, context: StageContext) -> tuple[Model, StageReport]:
    """Convert a copy of `model`. OptionError for names to keep that no node has."""
    start = time.perf_counter()
    _check_names(model, options)
    converted, report = _convert(model, options, context)
    return converted, replace(report, seconds=time.perf_counter() - start)


def _saves(model: Model) -> bool:
    """Whether a noteworthy share of the constants is float32."""
    constants = {v.constant: is_float(v) for n in model.graph.walk() for v in n.inputs if v is not None and v.constant}
    floats = sum(constant.nbytes for constant, float32 in constants.items() if float32)
    return floats > _LITTLE * sum(constant.nbytes for constant in constants)


def _check_names(model: Model, options: Float16) -> None:
    known = {name for node in model.graph.walk() for name in (name_of(node), *node.origins)}
    unknown = [name for name in options.keep if name not in known]
    if unknown:
        raise OptionError(f"precision: keep names no node of the model: {', '.join(unknown)}")
    if not any(choice in QUANTIZED for choice in options.layers.values()):  # else quantization checks names
        check_names("precision", options.layers, known)


def _chooses(model: Model, options: Float16) -> bool:
    """Whether the choices name any float16 layer, not only excluded ones."""
    is_quantized = any(node.op == "DequantizeLinear" for node in model.graph.walk())
    halves = any(choice in (FLOAT16, STORED16) for choice in options.layers.values())
    return bool(options.layers) and (halves or is_quantized)


def _convert(model: Model, options: Float16, context: StageContext) -> tuple[Model, StageReport]:
    """Convert with masks clamped to float16's range; where fully masked rows then differ, with masks unchanged in
    float32; where that also loses too much, store only the weights in float16.
    """
    if options.storage:
        return _store(model, options, context)
    moved = clone_model(model)
    why, given, is_chosen = "", Candidates({}, {}), _chooses(model, options)
    moves = bool(clamp_masks(moved.graph))
    for base in (moved, model) if moves else (model,):
        given = candidates(base)
        given = given.without({n: "asked for" for n in given.slots if {name_of(n), *n.origins} & set(options.keep)})
        if not given.slots:
            return model, _left("no operator of it can be float16", given)
        if is_chosen:
            return _as_chosen(base, model, given, options, context)
        given = given.without(dict.fromkeys(named(base, options.layers), "as it was chosen"))
        if any(node.op == "DequantizeLinear" for node in given.kept) and not _saves(model):
            return model, _left("left as it was: it is quantized, and hardly a byte of it is float32", given)
        context.tell("float16", 0.1)
        given = given.without(unfit(base, given, context.calibration, _VALUE_FLOOR))
        search = _Search(base, given, options, context)
        found = search.run()
        written = None if found is None else _written(base, found, options, context)
        if found is not None and written is not None:
            made, stores = written
            choices = choices_of(base, found.given, stores)
            settled = None if base is model and moves else replace(options, layers=choices)  # that is tried second
            return made, replace(_reported(base, made, found, context), settled=settled)
        why = "no operator of it is worth the Casts around it"
        if search.said:
            why = f"computing in float16 leaves {search.said}, {_floor(options, context)}"
    result, report = _store(model, options, context)
    if report.changed:
        return result, replace(report, summary=f"{report.summary}; {why}")
    return model, _left(f"left float32: {why}", given)


@dataclass(frozen=True, slots=True)
class _Found:
    """A sufficiently accurate assignment. decibels: SQNR of the float32 run with rounded values."""

    given: Candidates
    half: frozenset[Node]
    decibels: float | None


class _Search:
    """Returns nodes to float32 until the rounding noise is acceptable.

    Rounding noise is small and independent, so it adds up: parts of the graph are rounded one at a time, and the
    noisiest return, until the sum of the others meets the floor.
    """

    def __init__(self, base: Model, given: Candidates, options: Float16, context: StageContext) -> None:
        self.base, self.given, self.options, self.context = base, given, options, context
        self.said, self.evaluated = "", 0

    def run(self) -> _Found | None:
        """A sufficiently accurate assignment with few nodes in float32; None where no attempt suffices."""
        found = self._tried(self.given)
        if found is not None:
            return found
        half = assign(self.base, self.given, self.options.keep_io)
        ordered = [node for node in self.base.graph.walk() if node in half]
        parts = _split(ordered, _PARTS)
        noise = dict(enumerate(self._noises(parts)))
        returned: list[Node] = []
        for i in sorted(noise, key=lambda i: -noise[i]):
            returned += parts[i]
            rest = sum(value for j, value in noise.items() if not set(parts[j]) <= set(returned))
            if rest > self._allowed:
                continue
            found = self._tried(self._kept(returned))
            if found is not None:
                return self._released(returned, rest) or found
        return None

    def _released(self, returned: Sequence[Node], noise: float) -> _Found | None:
        """Put the least noisy returned nodes, innocent neighbors, back into float16; None if no result suffices."""
        order = {node: i for i, node in enumerate(self.base.graph.walk())}
        pieces = _split(sorted(returned, key=order.__getitem__), _PIECES)
        costs = dict(enumerate(self._noises(pieces)))
        free: set[Node] = set()
        for i in sorted(costs, key=costs.__getitem__):
            noise += costs[i]
            if noise > self._allowed:
                break
            free.update(pieces[i])
        return self._tried(self._kept([node for node in returned if node not in free])) if free else None

    @property
    def _allowed(self) -> float:
        return float(10.0 ** (-self.options.min_sqnr / 10.0))

    def _kept(self, nodes: Iterable[Node]) -> Candidates:
        return self.given.without(dict.fromkeys(nodes, "rounding costs most here"))

    def _noises(self, parts: Iterable[Sequence[Node]]) -> Iterator[float]:
        """Noise-to-signal ratio with each part alone rounded."""
        context = self.context
        models = (rounded(self.base, self.given, frozenset(part)) for part in parts)
        for fidelity in context.quality.fidelities(models, _FEW, context.candidates_executor):
            self.evaluated += 1
            context.tell("float16", min(0.9, 0.2 + 0.02 * self.evaluated))
            yield float(10.0 ** (-fidelity.sqnr_db / 10.0))

    def _tried(self, given: Candidates) -> _Found | None:
        """The assignment, if sufficiently accurate."""
        half = assign(self.base, given, self.options.keep_io)
        if not half:
            return None
        verdict = _judge(rounded(self.base, given, half), self.options, self.context)
        self.said = verdict.text
        return _Found(given, half, verdict.decibels) if verdict.is_enough else None


def _split(nodes: Sequence[Node], count: int) -> list[Sequence[Node]]:
    """Parts of neighbours, of nearly equal length."""
    bounds = [round(i * len(nodes) / count) for i in range(count + 1)]
    return [nodes[a:b] for a, b in pairwise(bounds) if a < b]


def _as_chosen(
    base: Model, model: Model, given: Candidates, options: Float16, context: StageContext
) -> tuple[Model, StageReport]:
    """The caller's layers in float16, and operators between where that saves Casts; `model` itself without any."""
    found = _Found(chosen(base, given, options.layers), frozenset(), None)
    found = replace(found, half=assign(base, found.given, options.keep_io))
    if not found.half:
        return model, _left("left float32, as layers were chosen", found.given)
    result = build(base, found.given, found.half, options.keep_io, STORED16 in options.layers.values())
    return result, replace(_reported(base, result, found, context), settled=options)


def _written(base: Model, found: _Found, options: Float16, context: StageContext) -> tuple[Model, bool] | None:
    """The model of the assignment, and whether all its weights are float16, which they are if accuracy permits and no
    layer is named for float32; None where its results differ from the rounded model's."""
    for store in (False,) if FLOAT32 in options.layers.values() else (True, False):
        result = build(base, found.given, found.half, options.keep_io, store)
        if _judge(result, options, context).is_enough:
            return result, store
    return None


def _reported(base: Model, result: Model, found: _Found, context: StageContext) -> StageReport:
    nodes = len(found.given.slots) + len(found.given.kept)
    kept = dict(found.given.kept)
    kept.update({n: "between nodes in float32: two Casts cost more" for n in found.given.slots if n not in found.half})
    facts = Float16Figures(len(found.half), nodes, max(0, _casts(result) - _casts(base)), found.decibels)
    stay = f", {kept_text(kept)} stay float32" if kept else ""
    summary = f"{len(found.half)} of {nodes} nodes in float16{stay}; {_quality(result, context)}"
    layers = tuple(KeptNode(name_of(n), n.op, why) for n, why in kept.items())
    refused = tuple((name_of(n), why) for n, why in found.given.kept.items())
    return StageReport("float16", summary, layers, facts, refused)


def _store(model: Model, options: Float16, context: StageContext) -> tuple[Model, StageReport]:
    weights = {
        v.constant: None for n in model.graph.walk() for v in n.inputs
        if v is not None and v.constant is not None and is_float(v) and v.constant.size >= WEIGHT
    }  # fmt: skip
    if not weights:
        return model, _left("no weights to store in float16", Candidates({}, {}))
    result = stored(model)
    verdict = _judge(result, options, context)
    if not verdict.is_enough:
        why = f"left float32: weights in float16 leave {verdict.text}, {_floor(options, context)}"
        return model, _left(why, Candidates({}, {}))
    casts = _casts(result) - _casts(model)
    quality = _quality(result, context)
    summary = f"{casts} of {len(weights)} weights stored in float16, computed in float32; {quality}"
    return result, StageReport("float16", summary, (), Float16Figures(0, len(result.graph), casts))


def _casts(model: Model) -> int:
    return sum(node.op == "Cast" for node in model.graph.walk())


def _quality(model: Model, context: StageContext) -> str:
    return NOT_MEASURED if context.calibration.is_synthetic else str(context.quality.fidelity(model))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Whether a model is sufficiently accurate, and its error in words; in dB where no metric judges."""

    is_enough: bool
    text: str
    decibels: float | None = None


def _judge(model: Model, options: Float16, context: StageContext) -> _Verdict:
    quality = context.quality
    if quality.metric is not None and context.max_drop is not None:
        drop = quality.drop(model)
        return _Verdict(drop <= context.max_drop, f"the metric {drop:.4g} lower")
    fidelity = quality.fidelity(model)
    is_enough = fidelity.sqnr_db >= options.min_sqnr or _is_below_range(model, context)
    return _Verdict(is_enough, str(fidelity), fidelity.sqnr_db)


def _is_below_range(model: Model, context: StageContext) -> bool:
    """Whether made-up inputs give results below float16's normal range, as detectors without detections: then their
    SQNR reflects the inputs alone."""
    if not context.calibration.is_synthetic:
        return False
    session = context.quality.session(model)
    results = (np.asarray(r) for feed in context.calibration for r in session.run(None, feed))
    return all(float(np.abs(r).max(initial=0.0)) < SMALLEST_NORMAL for r in results if r.dtype.kind == "f")


def _floor(options: Float16, context: StageContext) -> str:
    if context.quality.metric is not None and context.max_drop is not None:
        return f"{context.max_drop:.4g} is allowed"
    return f"{options.min_sqnr:g} dB are asked for (min_sqnr)"


def _left(reason: str, given: Candidates) -> StageReport:
    refused = tuple((name_of(node), why) for node, why in given.kept.items())
    return StageReport("float16", reason, refused=refused, changed=False)
