"""What a lossy stage did, layer by layer or group by group."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did.

    summary: one line. columns and rows: a table, one row a layer or group. figures: the numbers that sum it up.
    refused: what stayed as it was, with the reason. changed: False when the stage handed back what it was given.
    """

    name: str
    summary: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    figures: dict[str, Any] | None = None
    refused: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    changed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
