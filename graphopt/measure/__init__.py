"""Measurement: static figures of a model, its latency on this machine, the quality of a lossy one."""

from .figures import AT_ONE, Figures, figures, macs_text, peak_activation_bytes, value_bytes
from .latency import Timing, compare_latency, geometric_mean, interleaved, ort_session, own_clock, taking_floats
from .macs import macs_at, macs_by_size, macs_values, node_macs
from .profile import KernelTime, kernel_times, node_seconds, profile_nodes
from .quality import SAMPLES, Fidelity, MakeSession, Metric, Quality, metric_name
from .units import show_bytes, show_change, show_count, show_db

__all__ = [
    "AT_ONE", "SAMPLES", "Fidelity", "Figures", "KernelTime", "MakeSession", "Metric", "Quality", "Timing",
    "compare_latency",
    "figures", "geometric_mean", "interleaved", "kernel_times", "macs_at", "macs_by_size", "macs_text", "macs_values",
    "metric_name", "node_macs", "node_seconds", "ort_session", "own_clock", "peak_activation_bytes", "profile_nodes",
    "show_bytes", "show_change", "show_count", "show_db", "taking_floats",
    "value_bytes",
]  # fmt: skip
