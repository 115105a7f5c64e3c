"""Localization of differences between two models: matched inner values, compared along the graph."""

from .layers import Drift, LayerDrift, measure_drift
from .match import Counterpart, counterparts

__all__ = ["Counterpart", "Drift", "LayerDrift", "counterparts", "measure_drift"]
