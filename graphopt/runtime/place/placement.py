"""The decisions on a partition, with reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir import Node
from ..lower.traits import Operation


@dataclass(frozen=True, slots=True)
class Placement:
    """`left`: operations left to their nodes; `reasons` by these nodes, `decisions` by operations on kernels, `verdict`
    for the whole."""

    left: set[Operation]
    reasons: dict[Node, str] = field(default_factory=dict)
    decisions: dict[Operation, str] = field(default_factory=dict)
    verdict: str = ""
