"""Calibration: inner values of a model over sample data, observed sample by sample, never all in memory."""

from .activations import Taps, portions, stream
from .doubts import doubts
from .folders import PRESETS, Preprocess, preprocess_named
from .forms import Tokenizer
from .masks import numbers
from .observe import Observed, observe
from .observers import Extent, Histogram
from .prompts import STARTS, TOKENS, Prompts
from .ranges import METHODS, choose_range, observer_for
from .shapes import Shapes, shapes_at
from .source import BATCH, Calibration, CalibrationData, CalibrationDataReader, is_synthetic, open_calibration

__all__ = [
    "BATCH", "METHODS", "PRESETS", "STARTS", "TOKENS", "Calibration", "CalibrationData", "CalibrationDataReader",
    "Extent", "Histogram", "Observed", "Preprocess", "Prompts", "Shapes", "Taps", "Tokenizer", "choose_range", "doubts",
    "is_synthetic", "numbers", "observe", "observer_for", "open_calibration", "portions", "preprocess_named",
    "shapes_at", "stream",
]  # fmt: skip
