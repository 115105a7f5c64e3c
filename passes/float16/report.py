"""The report of the conversion to half precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...compress.report import Cell, LayerReport, StageFigures
from ...ir import Node


@dataclass(frozen=True, slots=True)
class KeptNode(LayerReport):
    """A node that stays float32, and why."""

    node: str
    operator: str
    reason: str

    def cells(self) -> dict[str, Cell]:
        """A row of the report's table."""
        return {"stays float32": self.node, "operator": self.operator, "why": self.reason}


@dataclass(frozen=True, slots=True)
class Float16Figures(StageFigures):
    """Nodes in float16, and nodes with float operands or results; Casts in the result; SQNR (dB) of a float32 run with
    values rounded to float16 (None where not measured)."""

    half: int
    nodes: int
    casts: int
    rounded_db: float | None = None


def name_of(node: Node) -> str:
    """The name by which the report calls a node."""
    return node.name or (node.outputs[0].name if node.outputs else "") or node.op


def kept_text(nodes: Iterable[Node]) -> str:
    """The operators that stay float32, with their counts, the most frequent first."""
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.op] = counts.get(node.op, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [op if count == 1 else f"{count} {op}" for op, count in ordered[:4]]
    return ", ".join(shown) + (" …" if len(ordered) > 4 else "")
