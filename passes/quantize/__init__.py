"""Quantization: integers in place of floats, placed so that accuracy is kept and time is gained.

Rooms, lowest first: options, numerics, candidates, emit, place, then the modules that run them in order."""

from __future__ import annotations

from .options import Quantize, check_quantize
from .stage import quantize

__all__ = ["Quantize", "check_quantize", "quantize"]
