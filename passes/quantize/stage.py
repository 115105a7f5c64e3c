"""The quantization stage: choose integers, place them where they gain, guard the result."""

from __future__ import annotations

import time
from dataclasses import replace

from ...ir import Model
from ...stages import Context, StageReport
from .decide import quantize_model
from .options import Quantize


def quantize(model: Model, options: Quantize, context: Context) -> tuple[Model, StageReport]:
    """Quantize a copy of `model` as `options` say."""
    start = time.perf_counter()
    made, report = quantize_model(model, options, context)
    return made, replace(report, seconds=time.perf_counter() - start)
