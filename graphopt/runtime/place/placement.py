"""What is decided of a partition, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir import Node
from ..lower.traits import Operation


@dataclass(frozen=True, slots=True)
class Placement:
    """Operations left to their nodes; what decided, by node of these and by operation on kernels, and of the whole."""

    left: set[Operation]
    reasons: dict[Node, str] = field(default_factory=dict)
    decisions: dict[Operation, str] = field(default_factory=dict)
    verdict: str = ""
