"""The report of quantization: a row for each layer, and summary figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ...compress.report import Cell, LayerReport, StageFigures, StageReport
from ...ir import Model, Value
from .candidates.assignment import Assignment
from .candidates.units import Unit
from .chosen import choices_of
from .decide import Decision, share_of_macs
from .numerics.solve import FLOAT_PRODUCTS, NO_PAIRS, Certificate, pair_certificate
from .options import ALWAYS, Quantize

RETURNED_TO_FLOAT = "returned to float for accuracy"
STORED = "reads weights stored in 8 bits, its input stays float, for accuracy"
NO_GAIN = "does not gain on integers here"


@dataclass(frozen=True, slots=True)
class QuantizedLayer(LayerReport):
    """One layer with weights.

    runs_on: "int8" or "float". bits: of its codes. objective_nearest, objective_found: J = E‖W x − W_q x‖² of rounding
    to the nearest and of the chosen codes. weight_error: √(J / E‖W x‖²). worst_pair: the largest |sum| of two codes of
    one sign in a row. certificate: whether 16-bit sums are exact. error_alone: the relative error of the model's
    results with this layer alone quantized; error_predicted: the same by gradients, to first order. None where a number
    was not computed, was computed on made-up inputs, or does not apply.
    """

    name: str
    operator: str
    runs_on: str
    bits: int | None = None
    objective_nearest: float | None = None
    objective_found: float | None = None
    weight_error: float | None = None
    worst_pair: int | None = None
    certificate: Certificate | None = None
    error_alone: float | None = None
    error_predicted: float | None = None

    DETAILS: ClassVar[frozenset[str]] = frozenset(("J nearest", "J found", "worst pair", "16 bits"))

    def cells(self) -> dict[str, Cell]:
        """A row of the report's table; errors alone are a column where they were measured."""
        cells: dict[str, Cell] = {
            "layer": self.name, "operator": self.operator, "runs on": self.runs_on, "bits": self.bits,
            "J nearest": self.objective_nearest, "J found": self.objective_found, "weight error": self.weight_error,
            "worst pair": self.worst_pair, "16 bits": None if self.certificate is None else str(self.certificate),
        }  # fmt: skip
        if self.error_alone is not None:
            cells["error alone"] = self.error_alone if math.isfinite(self.error_alone) else None
        if self.error_predicted is not None:
            cells["error predicted"] = self.error_predicted
        return cells


@dataclass(frozen=True, slots=True)
class QuantizeFigures(StageFigures):
    """layers, layers_float: with weights, on integers and left float. samples: read for calibration. objective_before,
    objective_after: ΣJ over all layers. pair_safe: 16-bit sums are exact in every layer. per_channel_activations: how
    many activations have scales a channel. rank_correlation: Spearman's, of predicted with measured errors of layers.
    """

    share_of_macs: float = 0.0
    speed: float | None = None
    layers: int = 0
    layers_float: int = 0
    samples: int | None = None
    calibrate_method: str | None = None
    objective_before: float | None = None
    objective_after: float | None = None
    pair_safe: bool | None = None
    per_channel_activations: int | None = None
    rank_correlation: float | None = None


def report_decision(decision: Decision, is_synthetic: bool = False) -> StageReport:
    """The report of a calibrated model, whether it was quantized or left float. `is_synthetic`: on made-up inputs."""
    calibrated, assignment, options = decision.calibrated, decision.assignment, decision.calibrated.options
    candidates, returned = calibrated.assignment.units, decision.guarded.returned
    chosen: frozenset[Unit] = frozenset() if assignment is None else assignment.units
    layers = tuple(_layer(decision, unit) for unit in calibrated.units.layers if unit in candidates)
    facts, text = _figures(decision, chosen), decision.text
    if is_synthetic:
        layers = tuple(map(_without_errors, layers))
        facts = replace(facts, objective_before=None, objective_after=None)
    refused = [*calibrated.units.refused, *((u.name, RETURNED_TO_FLOAT) for u in returned)]
    stored: list[Unit] = []
    if assignment is not None:
        stored = [u for u in calibrated.units.layers if u in chosen and assignment.codes[u.node].is_stored]
        refused += [(u.name, STORED) for u in stored]
        refused += [(u.name, NO_GAIN) for u in candidates - chosen if u not in returned and u.linear is not None]
        integers = "int8" if options.mode != "weights" else f"layers stored as {_widths(assignment)}"
        if options.mode == "static" and options.has_narrow:
            integers = f"{_widths(assignment)} weights by {options.activation_type}"
        text = f"{facts.share_of_macs:.0%} of MACs in {integers}, {text}"
        if facts.per_channel_activations:
            text += f"; {facts.per_channel_activations} activations with scales a channel"
        if stored:
            text += f"; {len(stored)} of {facts.layers} layers as weights stored in 8 bits, for accuracy"
    name = f"quantize {options.mode}"
    fitted = "ranges of activations" if options.mode == "static" else ""
    settled = replace(
        options, layers=choices_of(calibrated, assignment),
        per_channel_activations=ALWAYS if assignment is not None and assignment.channels else False,
    )  # fmt: skip
    return StageReport(
        name, text, layers, facts, tuple(refused), changed=assignment is not None, fitted=fitted, settled=settled
    )


def _without_errors(layer: QuantizedLayer) -> QuantizedLayer:
    """The layer without figures measured on samples, which are meaningless for made-up inputs."""
    return replace(
        layer, objective_nearest=None, objective_found=None, weight_error=None, error_alone=None, error_predicted=None
    )


def _widths(assignment: Assignment) -> str:
    """The integer types of weights in words, with the number of layers that deviate from the usual type."""
    bits = [assignment.codes[u.node].bits for u in assignment.units if u.linear is not None]
    kind, counts = assignment.options.weight_type, Counter(bits)
    counts.pop(assignment.options.weight_bits, None)
    if kind == "int3" and assignment.options.mode == "weights":
        kind = "int3 in codes of 4 bits"
    others = ", ".join(f"{count} of {len(bits)} as int{width}" for width, count in sorted(counts.items()))
    return f"{kind} ({others})" if others else kind


def _figures(decision: Decision, chosen: frozenset[Unit]) -> QuantizeFigures:
    calibrated, assignment, options = decision.calibrated, decision.assignment, decision.calibrated.options
    channels: Set[Value] = set() if assignment is None else assignment.channels.keys()
    pair_safe = None
    if assignment is not None:
        pair_safe = all(certificate(u, assignment).is_exact for u in chosen if u.linear is not None)
    stored = set() if assignment is None else {node for node, codes in assignment.codes.items() if codes.is_stored}
    integers = frozenset(u for u in chosen if u.node not in stored)
    return QuantizeFigures(
        share_of_macs=share_of_macs(calibrated, integers),
        speed=decision.speedup,
        layers=sum(u.linear is not None for u in chosen),
        layers_float=sum(u.linear is not None for u in calibrated.assignment.units - chosen),
        samples=calibrated.samples,
        calibrate_method=options.calibrate_method if options.mode == "static" else None,
        objective_before=_sum(s.before for s in calibrated.solved.values()),
        objective_after=_sum(s.after for s in calibrated.solved.values()),
        pair_safe=pair_safe,
        rank_correlation=rank_correlation(decision),
        per_channel_activations=len({v for u in chosen for v in (*u.inputs, *u.outputs)} & channels),
    )


def _layer(decision: Decision, unit: Unit) -> QuantizedLayer:
    layer = _measured_layer(decision, unit)
    return replace(layer, error_predicted=decision.predicted.get(unit)) if layer.error_alone is not None else layer


def _measured_layer(decision: Decision, unit: Unit) -> QuantizedLayer:
    calibrated, assignment, node = decision.calibrated, decision.assignment, unit.node
    solved, finer, alone = calibrated.solved[node], calibrated.finer.known.get(node), decision.errors.get(unit)
    if assignment is None or unit not in assignment.units:
        objectives = (solved.before, solved.after, solved.error)
        return QuantizedLayer(unit.name, node.op, "float", None, *objectives, error_alone=alone)
    codes = assignment.codes[node]
    if finer is not None and codes is finer.codes:
        solved = finer
    return QuantizedLayer(
        unit.name, node.op, "float" if codes.is_stored else "int8", codes.bits, solved.before, solved.after,
        solved.error, codes.worst_pair, certificate(unit, assignment), alone,
    )  # fmt: skip


def rank_correlation(decision: Decision) -> float | None:
    """Spearman's correlation of predicted with measured errors of layers; None without three of both."""
    both = [u for u in decision.calibrated.units.layers if u in decision.predicted and u in decision.errors]
    if len(both) < 3:
        return None
    first, second = (np.argsort(np.argsort([of[u] for u in both])) for of in (decision.predicted, decision.errors))
    return float(np.corrcoef(first, second)[0, 1])


def certificate(unit: Unit, assignment: Assignment) -> Certificate:
    """The certificate of a layer on integers."""
    if assignment.options.mode == "weights" or unit.node.op == "Gather" or assignment.codes[unit.node].is_stored:
        return FLOAT_PRODUCTS
    if unit.linear is not None and unit.linear.is_depthwise:
        return NO_PAIRS
    return pair_certificate(assignment.codes[unit.node].worst_pair, assignment.options, assignment.target)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class QuantizedParts:
    """A model with separately quantized parts, the report and MACs of each, and (name, reason) of the parts left float.
    speed: of the model relative to the one before, where timed. choices: the decisions for layers in the parts."""

    model: Model
    reports: tuple[tuple[StageReport, int], ...]
    refused: tuple[tuple[str, str], ...]
    speed: float | None = None
    choices: Mapping[str, str] = field(default_factory=dict)


def with_parts(report: StageReport, parts: QuantizedParts, total: int | None, options: Quantize) -> StageReport:
    """The report of the root graph combined with its parts' reports; `total`: the MACs of the whole model."""
    if parts.choices:
        settled = report.settled or replace(options, layers={})
        report = replace(report, settled=replace(settled, layers={**settled.layers, **parts.choices}))
    refused = (*report.refused, *parts.refused, *(item for part, _ in parts.reports for item in part.refused))
    if not parts.reports:
        return replace(report, refused=refused)
    facts, more = _figures_of(report), [_figures_of(part) for part, _ in parts.reports]
    inside = sum(part.share_of_macs * macs for part, (_, macs) in zip(more, parts.reports))
    facts = replace(
        facts,
        layers=facts.layers + sum(part.layers for part in more),
        layers_float=facts.layers_float + sum(part.layers_float for part in more),
        share_of_macs=facts.share_of_macs + (inside / total if total else 0.0),
        speed=facts.speed if parts.speed is None else parts.speed * (facts.speed or 1.0),
    )
    layers = (*report.layers, *(layer for part, _ in parts.reports for layer in part.layers))
    summaries = [f"{part.name}: {part.summary}" for part, _ in parts.reports]
    summary = "; ".join([*([report.summary] if report.changed else []), *summaries])
    fitted = report.fitted or next((part.fitted for part, _ in parts.reports if part.fitted), "")
    return replace(report, summary=summary, layers=layers, facts=facts, refused=refused, changed=True, fitted=fitted)


def _figures_of(report: StageReport) -> QuantizeFigures:
    return report.facts if isinstance(report.facts, QuantizeFigures) else QuantizeFigures()
