"""Where two models drift apart: the values that both compute, matched, and compared along the graph."""

from .layers import Drift, LayerDrift, measure_drift
from .match import Counterpart, counterparts

__all__ = ["Counterpart", "Drift", "LayerDrift", "counterparts", "measure_drift"]
