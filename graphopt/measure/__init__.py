"""Measurement: what a model costs on paper, and how long it takes on this machine."""

from .figures import Figures, figures, node_macs, peak_activation_bytes, value_bytes
from .latency import Timing, compare_latency, geometric_mean, interleaved, ort_session, own_clock
from .macs import macs_at, macs_values
from .profile import profile_nodes
from .quality import Fidelity, MakeSession, Metric, Quality
from .units import show_bytes, show_change, show_count

__all__ = [
    "Fidelity",
    "Figures",
    "MakeSession",
    "Metric",
    "Quality",
    "Timing",
    "compare_latency",
    "figures",
    "geometric_mean",
    "interleaved",
    "macs_at",
    "macs_values",
    "node_macs",
    "ort_session",
    "own_clock",
    "peak_activation_bytes",
    "profile_nodes",
    "show_bytes",
    "show_change",
    "show_count",
    "value_bytes",
]
