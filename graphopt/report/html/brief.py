"""A report as an HTML summary for notebooks."""

from __future__ import annotations

from html import escape

from ..data import ReportData
from ..headline import headline
from .page import figure_rows, latency_rows


def brief(report: ReportData) -> str:
    """The headline, the figures before and after, the stages, notes and the reason of the status."""
    rows = "".join(
        f"<tr><th>{escape(row.label)}</th>"
        + "".join(f"<td>{escape(text)}</td>" for text in (row.before, row.after, row.change))
        + "</tr>"
        for row in (*figure_rows(report), *latency_rows(report))
    )
    lines = [f"<b>{escape(stage.name)}</b> {escape(stage.summary)}" for stage in report.stages]
    lines += [f"rolled back {escape(f'{item.what}: {item.reason}')}" for item in report.rolled_back]
    lines += [escape(note) for note in report.notes]
    lines.append(f"<b>{escape(report.status)}</b> {escape(report.reason_alone)}")
    return (
        f"<div><p><b>{escape(headline(report))}</b></p><table><tr><th></th><th>before</th><th>after</th><th>change</th>"
        f"</tr>{rows}</table>{''.join(f'<p>{line}</p>' for line in lines)}</div>"
    )
