"""The quantization stage: choose integers, place them where they gain, guard the result."""

from __future__ import annotations

import time
from dataclasses import replace

from ...errors import OptionError
from ...ir import Model
from ...stages import Context, StageReport
from .options import Quantize
from .static import quantize_static


def quantize(model: Model, options: Quantize, context: Context) -> tuple[Model, StageReport]:
    """Quantize a copy of `model` as `options` say."""
    start = time.perf_counter()
    if options.mode != "static":
        raise OptionError(f"quantize={options.mode!r} is not available yet in this version")
    made, report = quantize_static(model, options, context)
    return made, replace(report, seconds=time.perf_counter() - start)
