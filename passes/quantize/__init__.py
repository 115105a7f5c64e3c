"""Quantization: integers in place of floats, chosen so that results stay and time is gained.

Rooms, lowest first: options, numerics, candidates, emit, place, then the files that order them."""

from __future__ import annotations

from .options import Quantize, check_quantize
from .stage import quantize

__all__ = ["Quantize", "check_quantize", "quantize"]
