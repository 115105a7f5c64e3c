"""Lossy stages: what they are given and what they tell. A stage returns its input, unchanged, when it cannot do better.

A stage is a function `(model: ir.Model, options, context: Context) -> tuple[ir.Model, StageReport]`; it never edits the
model it is given.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

from ..calibration import Calibration
from ..measure import Quality
from ..pipeline import Progress


@dataclass(frozen=True, slots=True)
class Context:
    """What every stage may use.

    calibration: feeds to read as often as needed. quality: judges candidates against the original. max_drop: how far
    the metric may fall; None leaves the stage to its own floor. executor: runs independent work, where there is one.
    """

    calibration: Calibration
    quality: Quality
    max_drop: float | None
    target: str
    seed: int
    progress: Progress | None = None
    executor: Executor | None = None

    def tell(self, what: str, share: float) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(what, share)


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
