"""The report of a lossy stage: a typed row for each layer or group, and typed summary figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

Cell = str | int | float | bool | None
"""One cell of a report's table."""


@dataclass(frozen=True, slots=True)
class LayerReport(ABC):
    """One layer or group of a stage's report: a row of its table. DETAILS: headings that `-v` alone shows."""

    DETAILS: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def cells(self) -> dict[str, Cell]:
        """The row by headings, in the order of the columns. A heading that only some rows have is a column of all."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """The summary figures of a stage. Each field of a subclass is one figure; None where it does not apply."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """The report of one stage.

    summary: one line. refused: (name, reason) of each part that stayed as it was. changed: False when the stage
    returned its input. fitted: names the numbers of the result that come from calibration data, "" for none. settled:
    the stage's options with all its decisions written in, which reproduce the result; None where its options say all.
    """

    name: str
    summary: str
    layers: tuple[LayerReport, ...] = ()
    facts: StageFigures | None = None
    refused: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    changed: bool = True
    fitted: str = ""
    settled: Any = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The headings of the layers' table."""
        return tuple(dict.fromkeys(heading for layer in self.layers for heading in layer.cells()))

    @property
    def details(self) -> frozenset[str]:
        """The headings that a terminal shows on request only."""
        return frozenset().union(*{layer.DETAILS for layer in self.layers})

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """The cells of the layers' table, one row a layer."""
        columns = self.columns
        return tuple(tuple(cells.get(heading) for heading in columns) for cells in (x.cells() for x in self.layers))

    @property
    def figures(self) -> dict[str, Any] | None:
        """`facts` as plain data; None without any."""
        return None if self.facts is None else asdict(self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name, "summary": self.summary, "columns": self.columns, "rows": self.rows,
            "figures": self.figures, "refused": self.refused, "seconds": self.seconds, "changed": self.changed,
            "fitted": self.fitted,
        }  # fmt: skip


def banner_of(stages: Iterable[StageReport], has_metric: bool = False) -> str:
    """The warning heading any report of a result whose numbers come from made-up inputs; "" for none.

    has_metric: the caller's metric was measured, on data of its own.
    """
    fitted = list(dict.fromkeys(stage.fitted for stage in stages if stage.changed and stage.fitted))
    if not fitted:
        return ""
    known = "the metric alone tells of accuracy" if has_metric else "accuracy is unknown"
    return f"MADE-UP INPUTS: {' and '.join(fitted)} come from them; {known}. Give calibration data."


NOT_MEASURED = "accuracy not measured (made-up inputs)"
"""Replaces any figure of fidelity measured on made-up inputs."""
