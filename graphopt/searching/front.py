"""The front of a search: measured points, selection among them, and their presentation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import check_arguments
from ..errors import OptionError
from ..machine.files import check_target, replace_file, reported
from ..measure import show_bytes
from .plan import describe
from .point import Point, front_of
from .tables import Tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

MEGABYTE = 1e6
"""Bytes of a megabyte, in the decimal sense of shops and downloads."""
HEADINGS = ("point", "speed", "quality", "held out", "size", "recipe")


@dataclass(frozen=True, slots=True)
class Front:
    """The Pareto-optimal points, the original first; prints itself, also in notebooks.

    history: every trial in order, the original first. objectives: of `graphopt.search`. quality: the name of the
    quality measure, the metric's or "SQNR". peers: other measured models, for the chart alone. notes: warnings for the
    reader. tables: the cost tables for solving under new constraints.
    """

    points: tuple[Point, ...]
    history: tuple[Point, ...]
    objectives: tuple[str, ...]
    quality: str = "SQNR"
    notes: tuple[str, ...] = ()
    peers: tuple[Point, ...] = ()
    tables: Tables | None = field(default=None, repr=False)
    keep_alive: Any = field(default=None, repr=False, compare=False)

    @property
    def original(self) -> Point:
        """The point of the given model."""
        return self.points[0]

    def pick(
        self, *, max_drop: float | None = None, speedup: float | None = None, size_mb: float | None = None,
        min_sqnr: float | None = None, measured: bool = True,
    ) -> Point:  # fmt: skip
        """The best point under constraints: the fastest where only quality is limited, else the one of best quality.

        max_drop: how far the metric may fall. min_sqnr: the least SQNR in dB. speedup: how many times as fast as the
        original at least. size_mb: megabytes (10⁶ bytes) of the file at most. measured: False solves the integer
        program again from the stored tables; the point is then a recipe with predicted figures, and no file.
        OptionError, with the nearest point, where no point meets all constraints.
        """
        check_arguments(Front.pick, locals())
        limits = self._limits(max_drop, speedup, size_mb, min_sqnr)
        if not limits:
            raise OptionError("pick: give max_drop, min_sqnr, speedup or size_mb")
        if not measured:
            return self._solved(max_drop, speedup, size_mb, min_sqnr)
        fitting = [point for point in self.points if all(miss(point) <= 0 for miss, _ in limits)]
        if not fitting:
            nearest = min(self.points, key=lambda point: sum(max(0.0, miss(point)) for miss, _ in limits))
            asked = " and ".join(text for _, text in limits)
            raise OptionError(f"pick: no measured point has {asked}; the nearest is {self._figures(nearest)}")
        by_quality = speedup is not None or (size_mb is not None and max_drop is None and min_sqnr is None)
        order = ("quality", "latency", "size") if by_quality else ("latency", "quality", "size")
        return min(fitting, key=lambda point: point.values(order))

    def _limits(
        self, max_drop: float | None, speedup: float | None, size_mb: float | None, min_sqnr: float | None
    ) -> list[tuple[Callable[[Point], float], str]]:
        """(relative violation by a point, the limit in words) of each constraint."""
        limits: list[tuple[Callable[[Point], float], str]] = []
        if max_drop is not None:
            base = self.original.metric
            if base is None:
                raise OptionError("pick: max_drop is of a metric, and none was given: take min_sqnr (dB)")
            least = base - max_drop
            limits.append((lambda p: (least - p.quality) / (abs(base) or 1.0) - 1e-12, f"a fall of {max_drop:g}"))
        if min_sqnr is not None:
            limits.append((lambda p: 0.0 if p.sqnr_db >= min_sqnr else 1 - p.sqnr_db / min_sqnr, f"{min_sqnr:g} dB"))
        if speedup is not None:
            limits.append((
                lambda p: math.inf if p.latency is None else p.latency * speedup - 1 - 1e-9, f"{speedup:g} × the speed"
            ))  # fmt: skip
        if size_mb is not None:
            most = size_mb * MEGABYTE
            limits.append((lambda p: p.size / most - 1, f"{size_mb:g} MB"))
        return limits

    def _solved(
        self, max_drop: float | None, speedup: float | None, size_mb: float | None, min_sqnr: float | None
    ) -> Point:
        if self.tables is None:
            raise OptionError("pick: this front has no tables to solve from")
        noise = None if min_sqnr is None else 10.0 ** (-min_sqnr / 10.0)
        if max_drop is not None:
            base = self.original.metric or 0.0
            kept = [p for p in self.history if not p.why and base - p.quality <= max_drop]
            worst = min(kept, key=lambda p: p.sqnr_db, default=self.original)
            noise = min(noise or math.inf, 10.0 ** (-worst.sqnr_db / 10.0))
        found = self.tables.solve(
            latency=None if speedup is None else 1.0 / speedup, noise=noise,
            size=None if size_mb is None else size_mb * MEGABYTE,
        )  # fmt: skip
        if found is None:
            raise OptionError("pick: by the tables no recipe keeps to all constraints")
        plan, predicted = found
        decibels = -10.0 * math.log10(max(predicted["noise"], 1e-20))
        return Point(
            name="predicted", recipe=self.tables.recipe(plan), latency=predicted["latency"], sqnr_db=decibels,
            low_db=decibels, size=round(predicted["size"]), predicted=predicted,
        )  # fmt: skip

    def _figures(self, point: Point) -> str:
        speed = "" if point.latency is None else f"{point.speedup:.2f} × the speed, "
        return f"{point.name} ({speed}{self.quality} {point.quality:.4g}, {show_bytes(point.size)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "objectives": list(self.objectives), "quality": self.quality, "notes": list(self.notes),
            "points": [point.to_dict() for point in self.points], "peers": [p.to_dict() for p in self.peers],
            "trials": len(self.history) - 1,
        }  # fmt: skip

    def to_json(self, indent: int | None = 2) -> str:
        """The front as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    def write_page(self, path: str | os.PathLike[str], title: str = "") -> None:
        """Write one HTML page that fetches nothing: the front drawn, hovers with the recipes, and the table.
        OutputError."""
        check_arguments(Front.write_page, locals())
        from ..report.html.front import front_page

        check_target(path)
        text = front_page(self.to_dict(), self.drawn(), list(self.rows()), HEADINGS, title).encode()
        with reported(os.fspath(path)):
            replace_file(os.fspath(path), lambda file: file.write(text), durable=False)

    def drawn(self) -> list[dict[str, Any]]:
        """The marks of the page's chart: name, kind (original, front, trial or peer), figures and hover text."""
        inside = {point.name for point in self.points}
        marks = []
        for point in (*self.history, *self.peers):
            if point.why or point.latency is None:
                continue
            kind = "original" if point.is_original else "peer" if point in self.peers else "trial"
            kind = "front" if kind == "trial" and point.name in inside else kind
            quality = None if math.isinf(point.quality) else point.quality
            text = f"{self._figures(point)}: {describe(point.recipe) or kind}"
            marks.append({"kind": kind, "speed": point.speedup, "quality": quality, "size": point.size, "text": text})
        return marks

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of the table, a row a point: see `HEADINGS`."""
        for point in (*self.points, *self.peers):
            speed = "" if point.latency is None else f"{point.speedup:.2f} × ± {2 * point.error:.1%}"
            error = "" if point.metric_error is None else f" ± {2 * point.metric_error:.2g}"
            decibels = "equal" if math.isinf(point.sqnr_db) else f"{point.sqnr_db:.1f} dB"
            quality = decibels if point.metric is None else f"{point.metric:.4g}{error}, {decibels}"
            held = "" if point.held_db is None or point.is_original else f"{point.held_db:.1f} dB"
            yield point.name, speed, quality, held, show_bytes(point.size), describe(point.recipe)

    def __str__(self) -> str:
        from ..report.tables import plain_text

        return plain_text(self, width=160)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table()
        for note in self.notes:
            yield f"[yellow]note[/] {note}"
        failed = sum(bool(point.why) for point in self.history)
        text = f"{len(self.points)} points of {len(self.history) - 1} trials"
        yield text + (f", {failed} of them could not be built" if failed else "")

    def _table(self) -> Table:
        from ..report.tables import plain_table

        table = plain_table(HEADINGS, right=("speed", "size"))
        for row in self.rows():
            table.add_row(*row)
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def front_from(
    history: Sequence[Point], objectives: Sequence[str], quality: str, notes: Sequence[str] = (),
    peers: Sequence[Point] = (), tables: Tables | None = None, keep_alive: Any = None,
) -> Front:  # fmt: skip
    """The front of a history of trials."""
    points = front_of(history, objectives)
    return Front(points, tuple(history), tuple(objectives), quality, tuple(notes), tuple(peers), tables, keep_alive)


def write_front(front: Front, folder: Path, title: str) -> None:
    """Write `front.json` and `front.html` in a folder, each whole or not at all. OutputError."""
    text = front.to_json().encode()
    with reported(str(folder)):
        replace_file(os.fspath(folder / "front.json"), lambda file: file.write(text), durable=False)
    front.write_page(folder / "front.html", title)
