"""The quantization stage: calibrate, choose precision per unit, emit; then branches and recurrent layers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from ...compress.context import StageContext
from ...compress.report import StageReport
from ...compress.speed import GAIN
from ...errors import Declined, OptionError
from ...ir import Model
from ...measure import figures
from .candidates.already_quantized import require_float
from .candidates.balance import balance
from .candidates.calibrated_model import calibrate_model
from .candidates.half import holds_half, narrowed, widened
from .candidates.prepare import spell_for_integers
from .candidates.units import PACKED
from .candidates.upgrade import upgraded
from .chosen import by_mode, check_layers, chosen_units
from .decide import decide
from .nested import quantize_branches
from .options import Quantize
from .place.bias_correction import with_bias_correction
from .place.bit_budget import with_bit_budget
from .place.calibration_methods import with_best_method
from .place.harmless_tables import with_harmless_tables
from .recurrent import quantize_recurrent
from .report import QuantizedParts, QuantizeFigures, report_decision, with_parts

SLOWER = 2.0 - GAIN
"""The speed relative to float below which a file of stored weights is reported as slower: as far from 1 as `GAIN`."""


def quantize(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize a copy of `model` by the options. OptionError for excluded names that no node has, and for weight types
    that the target does not support."""
    start = time.perf_counter()
    if options.mode == "weights" and options.weight_bits < 4 and context.target != "onnxruntime":
        raise OptionError(
            f"quantize: weight_type {options.weight_type} of mode weights is for target onnxruntime, whose own "
            f"products read it, not for {context.target}: take int4"
        )
    _check_names(options, model, context.quality.reference)
    quantized, report = _quantize_wide(model, options, context)
    report = _with_warning(report, options, context.target)
    return quantized, replace(report, seconds=time.perf_counter() - start)


def _quantize_wide(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize a float32 model, or a half-precision model widened to float32."""
    if not holds_half(model):
        return quantize_model(model, options, context)
    try:
        wide, halves = widened(model)
    except Declined as declined:
        return model, StageReport(f"quantize {options.mode}", declined.reason, changed=False)
    quantized, report = quantize_model(wide, options, context)
    if not report.changed:
        return model, report
    return narrowed(quantized, halves), replace(report, summary=f"{report.summary}; half precision runs as float32")


def quantize_model(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize the root graph, branches and recurrent layers; the model itself where declined or without gain.

    Layers chosen for other modes follow, mode by mode.
    """
    try:
        require_float(model)
    except Declined as declined:
        return model, StageReport(f"quantize {options.mode}", declined.reason, changed=False)
    options = with_bit_budget(model, options, context)
    reports: list[StageReport] = []
    for asked in by_mode(model, options):
        model, report = _quantize_in_mode(model, asked, context, not reports)
        reports.append(report)
    return model, _joined(reports, options)


def _joined(reports: Sequence[StageReport], options: Quantize) -> StageReport:
    """One report of all modes; `settled`: the caller's options with every layer's choice."""
    first, changed = reports[0], [report for report in reports if report.changed]
    if len(reports) > 1:
        summary = "; ".join(f"{report.name.partition(' ')[2]}: {report.summary}" for report in reports)
        first = replace(
            first if first.changed or not changed else replace(changed[0], name=first.name), summary=summary,
            layers=tuple(layer for report in reports for layer in report.layers), changed=bool(changed),
            refused=tuple(item for report in reports for item in report.refused),
        )  # fmt: skip
    settled = [report.settled for report in reports if report.settled is not None]
    if not settled:
        return first
    layers = {name: choice for one in settled for name, choice in one.layers.items()}
    by_channel = settled[0].per_channel_activations
    return replace(first, settled=replace(options, layers=layers, per_channel_activations=by_channel))


def _quantize_in_mode(
    model: Model, options: Quantize, context: StageContext, is_first: bool
) -> tuple[Model, StageReport]:  # fmt: skip
    """Quantize the layers of one mode; other layers may be quantized already, as branches are after the first mode."""
    try:
        raised = _raised(model, options, context)
    except Declined as declined:
        return model, StageReport(f"quantize {options.mode}", declined.reason, changed=False)
    nested = QuantizedParts(raised, (), ())
    if is_first:
        nested = quantize_branches(raised, options, context, quantize_model)
    base = nested.model if nested.reports else model
    rooted, report = _quantize_root(base, spell_for_integers(nested.model, options, context.target), options, context)
    recurrent = quantize_recurrent(rooted if report.changed or nested.reports else raised, options, context)
    for parts in (nested, recurrent):
        report = with_parts(report, parts, figures(base).macs if parts.reports else None, options)
    return recurrent.model if recurrent.reports else rooted, report


def _with_warning(report: StageReport, options: Quantize, target: str) -> StageReport:
    """The report, with a warning (also logged) where weights stored for their size cost time."""
    speed = report.facts.speed if isinstance(report.facts, QuantizeFigures) else None
    if options.mode != "weights" or not report.changed or speed is None or speed >= SLOWER:
        return report
    warning = f"slower than float here ({speed:.2f}×): stored weights are for small files, not for speed"
    if target == "portable":
        warning += '; with target="onnxruntime" those that cost it time become floats as it loads'
    logging.getLogger("graphopt").warning("quantize weights: %s", warning)
    return replace(report, summary=f"{report.summary}; {warning}")


def _quantize_root(model: Model, ready: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize `ready`, the model prepared for integers; the model itself where it stays float. OptionError for choices
    of unknown layers, before data are read, and for choices that a layer cannot satisfy."""
    check_layers(ready, options)
    balance(ready, options, context)
    calibrated = calibrate_model(ready, options, context)
    if not any(u.linear is not None for u in calibrated.assignment.units):
        chosen_units(calibrated)
        reason = _no_layer(ready, options.mode)
        refused = calibrated.units.refused
        return model, StageReport(f"quantize {options.mode}", reason, refused=refused, changed=False)
    calibrated = with_harmless_tables(with_best_method(calibrated, context), context)
    decision = decide(model, with_bias_correction(calibrated, context), context)
    report = report_decision(decision, context.calibration.is_synthetic)
    return (model if decision.model is None else decision.model), report


def _no_layer(model: Model, mode: str) -> str:
    """Why a mode leaves a model float: what it takes, and which modes take the convolutions that there are."""
    taken = "matrix products (MatMul, Gemm)" if mode == "dynamic" else "convolutions and matrix products"
    reason = f"left float: mode {mode} takes {taken} with constant weights, and the model has none that it can quantize"
    if mode != "dynamic" or not any(node.op == "Conv" for node in model.graph):
        return reason
    return f"{reason}; convolutions need mode static (calibration data, for speed) or weights (for a smaller file)"


def _raised(model: Model, options: Quantize, context: StageContext) -> Model:
    """The model at an opset with the required operators: packed weights and blocks came later than the rest.

    Declined where the opset cannot be raised; for target "onnxruntime" packed products are its own operators and need
    no opset, and only convolution weights use ONNX's packed types.
    """
    has_own = context.target == "onnxruntime" and all(node.op != "Conv" for node in model.graph.walk())
    is_plain = options.weight_bits == 8 and (context.target == "onnxruntime" or not options.block_size)
    if options.mode != "weights" or options.weight_bits < 4 or has_own or is_plain:
        return upgraded(model, context)
    try:
        return upgraded(model, context, PACKED)
    except Declined as declined:
        if context.target == "onnxruntime" and options.weight_type == "int4":
            return upgraded(model, context)
        raise Declined(f"{declined.reason} (weights of 4 bits, and blocks, need opset {PACKED})") from declined


def _check_names(options: Quantize, *models: Model) -> None:
    """OptionError for excluded names that no node of the original or the cleaned model has: a misspelled name would
    leave a layer on integers that must stay float."""
    known: set[str] = set()
    for model in models:
        for node in model.graph.walk():
            known.update((node.name or node.output.name or node.op, *node.origins) if node.outputs else node.origins)
    unknown = [name for name in options.nodes_to_exclude if name not in known]
    if unknown:
        raise OptionError(f"quantize: nodes_to_exclude names no node of the model: {', '.join(unknown)}")
