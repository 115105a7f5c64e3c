"""The data of a recommendation: measured modes, and a table that prints itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from ..measure import Fidelity, show_bytes

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from ..result import Result

CLEAR = 2.0
"""Standard errors on each side of a ratio that make its 95 % interval."""

HEADINGS = ("", "mode", "size", "smaller", "speed", "quality", "why")


@dataclass(frozen=True, slots=True)
class Mode:
    """One measured mode. `why`: one line on why it is chosen or not; `is_chosen` is True for exactly one mode.

    file_bytes: of the file, None without a model. speed: relative to the original in onnxruntime, one thread; error:
    its relative standard error. fidelity: to the original, on the calibration samples; metric: the caller's. path: of
    the written file. command: the command line that reproduces the mode.
    """

    name: str
    why: str
    is_chosen: bool = False
    file_bytes: int | None = None
    speed: float | None = None
    error: float = 0.0
    fidelity: Fidelity | None = None
    metric: float | None = None
    path: str = ""
    command: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the speed."""
        if self.speed is None:
            return None
        return self.speed * (1 - CLEAR * self.error), self.speed * (1 + CLEAR * self.error)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fidelity = self.fidelity
        return {
            "name": self.name, "chosen": self.is_chosen, "why": self.why, "file_bytes": self.file_bytes,
            "speed": self.speed, "interval": self.interval, "metric": self.metric, "path": self.path,
            "sqnr_db": None if fidelity is None or fidelity.sqnr_db == float("inf") else fidelity.sqnr_db,
            "low_sqnr_db": None if fidelity is None or fidelity.low_db == float("inf") else fidelity.low_db,
            "top1": None if fidelity is None else fidelity.top1, "command": self.command,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The tried modes, the original first, and the chosen one; prints itself, also in notebooks.

    result: of the chosen mode, to save or to run. notes: warnings, such as that no data was given.
    """

    modes: tuple[Mode, ...]
    notes: tuple[str, ...]
    result: Result = field(repr=False, compare=False)

    @property
    def choice(self) -> Mode:
        """The chosen mode."""
        return next(mode for mode in self.modes if mode.is_chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        modes = [mode.to_dict() for mode in self.modes]
        return {"choice": self.choice.name, "why": self.choice.why, "modes": modes, "notes": list(self.notes)}

    def to_json(self, indent: int | None = 2) -> str:
        """The recommendation as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of the table, a row a mode: see `HEADINGS`."""
        base = self.modes[0].file_bytes
        for mode in self.modes:
            size = "" if mode.file_bytes is None else show_bytes(mode.file_bytes)
            ratio = "" if mode.file_bytes is None or not base else f"{base / mode.file_bytes:.2f} ×"
            speed = "" if mode.speed is None else f"{mode.speed:.2f} × ± {CLEAR * mode.error:.0%}"
            metric = "" if mode.metric is None else f"{mode.metric:.4g}"
            quality = metric or ("" if mode.fidelity is None else str(mode.fidelity))
            yield ("→" if mode.is_chosen else "", mode.name, size, ratio, speed, quality, mode.why)

    def __str__(self) -> str:
        from ..report.tables import plain_text

        return plain_text(self, width=160)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table()
        for note in self.notes:
            yield f"[yellow]note[/] {note}"
        yield f"[bold green]{self.choice.name}[/] {self.choice.why}"
        if self.choice.command:
            yield f"[dim]{self.choice.command}[/]"

    def _table(self) -> Table:
        from ..report.tables import plain_table

        table = plain_table(HEADINGS, right=("size", "smaller", "speed"))
        for row in self.rows():
            table.add_row(*row, style="bold" if row[0] else None)
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{f'<b>{escape(c)}</b>' if row[0] else escape(c)}</td>" for c in row) + "</tr>"
            for row in self.rows()
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"
