"""Calibration: what data flows through a model, read sample by sample, never held at once."""

from .activations import Taps, stream
from .source import Calibration, open_calibration

__all__ = ["Calibration", "Taps", "open_calibration", "stream"]
