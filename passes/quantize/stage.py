"""The quantization stage: choose integers, place them where they gain, guard the result."""

from __future__ import annotations

import time
from dataclasses import replace

from ...compress.context import StageContext
from ...compress.report import StageReport
from ...errors import OptionError
from ...ir import Model
from .decide import quantize_model
from .options import Quantize


def quantize(model: Model, options: Quantize, context: StageContext) -> tuple[Model, StageReport]:
    """Quantize a copy of `model` as `options` say."""
    start = time.perf_counter()
    _check_names(options, model, context.quality.reference)
    made, report = quantize_model(model, options, context)
    return made, replace(report, seconds=time.perf_counter() - start)


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
