"""Provenance: where each node of an optimised model comes from, and what became of each node of the original."""

from .derive import Trail, trace
from .explain import explanation, overview
from .record import KEY, Gone, Kept, Provenance, Step, read, sidecar, write_sidecar

__all__ = [
    "KEY", "Gone", "Kept", "Provenance", "Step", "Trail", "explanation", "overview", "read", "sidecar", "trace",
    "write_sidecar",
]  # fmt: skip
