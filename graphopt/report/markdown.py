"""The report as Markdown, for a pull request: the headline, figures, passes, stages, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .data import ReportData
from .headline import headline
from .html.page import figure_rows, latency_rows

_REFUSED = 20
"""The most refusals listed; the rest is counted: a pull request's comment should fit on one screen."""


def markdown(report: ReportData, title: str = "") -> str:
    """The report as GitHub's Markdown."""
    rows = [*figure_rows(report), *latency_rows(report)]
    parts = [f"> [!CAUTION]\n> {_text(report.banner)}"] if report.banner else []
    parts.append(f"## {_text(title or 'graphopt report')}")
    parts += [f"**{_text(headline(report))}**", _text(report.reason_alone)]
    parts.append(_table(("", "before", "after", "change"), [(r.label, r.before, r.after, r.change) for r in rows]))
    effects = [(e.name, e.changes, f"{e.nodes_after - e.nodes_before:+d}") for e in report.effects if e.changes]
    if effects:
        parts += ["### Passes", _table(("pass", "changes", "nodes"), effects)]
    for stage in report.stages:
        parts += [f"### {_text(stage.name.capitalize())}", _text(stage.summary)]
        if stage.rows:
            table = _table(stage.columns, stage.rows)
            parts.append(f"<details><summary>{len(stage.rows)} rows</summary>\n\n{table}\n\n</details>")
    refused = [(item.what, item.reason) for item in report.rolled_back]
    refused += [(what, why) for stage in report.stages for what, why in stage.refused]
    if refused:
        parts += ["### Kept as it was", _table(("part", "reason"), refused[:_REFUSED])]
        if len(refused) > _REFUSED:
            parts.append(f"{len(refused) - _REFUSED} more are not listed.")
    parts += [f"> {_text(note)}" for note in report.notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else _text(str(value))


def _text(text: str) -> str:
    """A text escaped for a Markdown cell: no cell breaks, no HTML."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())
