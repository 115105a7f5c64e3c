"""The quantization stage: choose integers, place them where they gain, guard the result."""

from __future__ import annotations

import time
from dataclasses import replace

from ...compress.context import StageContext
from ...compress.report import StageReport
from ...errors import Declined, OptionError
from ...ir import Model
from ...measure import figures
from .candidates.already_quantized import quantized_form
from .candidates.calibrated_model import study
from .candidates.prepare import prepared
from .candidates.units import BLOCKED
from .candidates.upgrade import upgraded
from .decide import decide
from .emit.qdq import build
from .nested import quantize_branches
from .options import Quantize
from .place.bias_correction import with_means
from .place.calibration_methods import best_method
from .recurrent import quantize_recurrent
from .report import report_decision, with_parts


def quantize(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize a copy of `model` as `options` say."""
    start = time.perf_counter()
    _check_names(options, model, context.quality.reference)
    made, report = quantize_model(model, options, context)
    return made, replace(report, seconds=time.perf_counter() - start)


def quantize_model(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize activations and weights; the model itself, and why, where that cannot be done or gains nothing."""
    form = quantized_form(model)
    if form:
        return model, StageReport(f"quantize {options.mode}", f"already quantized, kept: {form}", changed=False)
    try:
        raised = _raised(model, options, context)
    except Declined as reason:
        return model, StageReport(f"quantize {options.mode}", f"left float: {reason}", changed=False)
    nested = quantize_branches(raised, options, context, quantize_model)
    base = nested.model if nested.reports else model
    made, report = _quantize_root(base, prepared(nested.model, options, context.target), options, context)
    recurrent = quantize_recurrent(made if report.changed or nested.reports else raised, options, context)
    for part in (nested, recurrent):
        report = with_parts(report, part, figures(base).macs if part.reports else None)
    return recurrent.model if recurrent.reports else made, report


def _quantize_root(model: Model, ready: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    studied = study(ready, options, context)
    if not any(u.linear is not None for u in studied.plan.units):
        why = "left float: no convolution or matrix product with constant weights can be quantized"
        refused = tuple(studied.units.refused)
        return model, StageReport(f"quantize {options.mode}", why, refused=refused, changed=False)
    studied = with_means(best_method(studied, context), context)
    studied, decision = decide(model, studied, context)
    report = report_decision(studied, decision)
    return (model if decision.plan is None else build(decision.plan)), report


def _raised(model: Model, options: Quantize, context: StageContext) -> Model:
    """At an operator set that has what the mode needs; blocks and fused stored weights where it can be reached."""
    if options.mode == "weights":
        try:
            return upgraded(model, context, BLOCKED)
        except Declined:
            pass
    return upgraded(model, context)


def _check_names(options: Quantize, *models: Model) -> None:
    """OptionError for names of nodes that neither the original nor what the passes made of it has: a misspelled one
    would leave a layer on integers that must not be."""
    known: set[str] = set()
    for model in models:
        for node in model.graph.walk():
            known.update((node.name or node.output.name or node.op, *node.origins) if node.outputs else node.origins)
    unknown = [name for name in options.nodes_to_exclude if name not in known]
    if unknown:
        raise OptionError(f"quantize: nodes_to_exclude names no node of the model: {', '.join(unknown)}")
