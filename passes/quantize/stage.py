"""The quantization stage."""

from __future__ import annotations

from ...errors import OptionError
from ...ir import Model
from ...stages import Context, StageReport
from .options import Quantize


def quantize(model: Model, options: Quantize, context: Context) -> tuple[Model, StageReport]:
    """Quantize a copy of `model` as `options` say."""
    raise OptionError("quantize= is not available yet in this version")
