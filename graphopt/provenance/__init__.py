"""Provenance: the origin of each node of an optimized model, and the fate of each node of the original."""

from .derive import Trail, derive_provenance
from .explain import explanation, history_of, overview, summary
from .record import KEY, Origin, Provenance, Removal, Step, read, sidecar, write_sidecar

__all__ = [
    "KEY", "Origin", "Provenance", "Removal", "Step", "Trail", "derive_provenance", "explanation", "history_of",
    "overview", "read", "sidecar", "summary", "write_sidecar",
]  # fmt: skip
