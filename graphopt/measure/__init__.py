"""Measurement of models: static figures, latency on this machine, quality of a lossy model.

The package imports only static figures: quality and latency need calibration and onnxruntime, half a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..machine.lazy import names_in
from .figures import AT_ONE, Figures, figures, macs_text, peak_activation_bytes, value_bytes
from .macs import macs_at, macs_by_size, macs_values, node_macs
from .units import show_bytes, show_change, show_count, show_db

if TYPE_CHECKING:
    from .latency import Timing, compare_latency, geometric_mean, interleaved, ort_session, own_clock, taking_floats
    from .profile import KernelTime, kernel_times, node_seconds, profile_nodes
    from .quality import SAMPLES, Fidelity, MakeSession, Metric, Quality, metric_name
    from .structure import structure_digest

__all__ = [
    "AT_ONE", "SAMPLES", "Fidelity", "Figures", "KernelTime", "MakeSession", "Metric", "Quality", "Timing",
    "compare_latency",
    "figures", "geometric_mean", "interleaved", "kernel_times", "macs_at", "macs_by_size", "macs_text", "macs_values",
    "metric_name", "node_macs", "node_seconds", "ort_session", "own_clock", "peak_activation_bytes", "profile_nodes",
    "show_bytes", "show_change", "show_count", "show_db", "structure_digest", "taking_floats",
    "value_bytes",
]  # fmt: skip

_HOMES = {
    "Timing": "latency", "compare_latency": "latency", "geometric_mean": "latency", "interleaved": "latency",
    "ort_session": "latency", "own_clock": "latency", "taking_floats": "latency",
    "KernelTime": "profile", "kernel_times": "profile", "node_seconds": "profile", "profile_nodes": "profile",
    "SAMPLES": "quality", "Fidelity": "quality", "MakeSession": "quality", "Metric": "quality", "Quality": "quality",
    "metric_name": "quality", "structure_digest": "structure",
}  # fmt: skip

__getattr__ = names_in(__name__, _HOMES)
