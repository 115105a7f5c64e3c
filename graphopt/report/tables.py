"""Tables for the terminal: a report, the figures of models, the registered passes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..measure import AT_ONE, Figures, macs_text, show_bytes, show_change, show_count
from .headline import headline

if TYPE_CHECKING:
    from rich.table import Table

    from ..compress.report import StageReport
    from ..pipeline import Effect
    from .data import ReportData

WIDE = 4096
"""Columns of a console that is no terminal: wider than any row, so that no line wraps and no name is cut."""


def plain_text(printable: object, width: int = WIDE) -> str:
    """Rich's output for an object, as text without colors."""
    from rich.console import Console

    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(printable)
    return capture.get()


def plain_table(headings: Iterable[str], right: Container[str] = (), caption: str | None = None) -> Table:
    """An empty table without lines; the columns in `right` are flush right. Long cells are folded, never cut."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", caption=caption)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table


def report_lines(report: ReportData, verbose: bool = False) -> Iterator[str | Table]:
    """A report as tables and lines of rich markup, its headline first; `verbose`: all columns of the stages' tables."""
    from rich.markup import escape

    if report.banner:
        yield f"[bold white on red] {escape(report.banner)} [/]"
    yield f"[bold]{escape(headline(report))}[/]"
    yield figures_table(report.before, report.after, report.metric, report.metric_name)
    changed = [effect for effect in report.effects if effect.changes]
    if changed:
        yield effects_table(changed)
    for item in report.rolled_back:
        where = f" ({item.rewrite})" if item.rewrite and item.rewrite != item.what else ""
        at = f" at {', '.join(item.nodes[:3])}" if item.nodes else ""
        yield f"[yellow]rolled back[/] {escape(f'{item.what}{where}{at}: {item.reason}')}"
    for stage in report.stages:
        yield f"[bold]{stage.name}[/] {escape(stage.summary)}"
        if stage.rows:
            yield stage_table(stage, verbose)
        for what, why in stage.refused:
            yield f"[dim]kept {escape(f'{what}: {why}')}[/]"
    for note in report.notes:
        yield f"[yellow]note[/] {escape(note)}"
    colour = {"equal": "green", "original": "yellow"}.get(report.status, "yellow")
    yield f"[bold {colour}]{report.status}[/] {escape(report.reason_alone)}"


def figures_table(
    before: Figures, after: Figures, metric: tuple[float, float] | None = None, metric_name: str = "metric"
) -> Table:
    """A row a figure with its values before and after, then the operators whose number changed."""
    columns = ("before", "after", "change")
    table = plain_table(("", *columns), right=columns)
    rows = (
        ("nodes", before.nodes, after.nodes, str),
        ("file size", before.file_bytes, after.file_bytes, show_bytes),
        ("parameters", before.parameters, after.parameters, show_count),
    )
    for label, old, new, show in rows:
        if old is not None and new is not None:
            table.add_row(label, show(old), show(new), show_change(old, new))
    macs, is_open = macs_text(before, after), before.symbolic or after.symbolic
    table.add_row(macs.label, *macs.texts, "" if macs.counts is None else show_change(*macs.counts))
    old, new = before.activation_bytes, after.activation_bytes
    change = "" if is_open and new > old else show_change(old, new)  # more sizes may be known after the passes
    table.add_row(f"peak activations{AT_ONE if is_open else ''}", show_bytes(old), show_bytes(new), change)
    if metric is not None:
        table.add_row(metric_name, *(f"{value:.4g}" for value in metric), f"{metric[1] - metric[0]:+.4g}")
    changed = sorted(
        {*before.operators, *after.operators},
        key=lambda op: (after.operators.get(op, 0) - before.operators.get(op, 0), op),
    )
    for op in changed:
        old, new = before.operators.get(op, 0), after.operators.get(op, 0)
        if old != new:
            table.add_row(f"  {op}", str(old), str(new), f"{new - old:+d}", style="dim")
    return table


def model_table(figures: Figures, opsets: Mapping[str, int]) -> Table:
    """The figures of one model."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("opset", _opsets_text(figures, opsets))
    table.add_row("nodes", str(figures.nodes))
    if figures.file_bytes is not None:
        table.add_row("file size", show_bytes(figures.file_bytes))
    table.add_row("parameters", show_count(figures.parameters))
    macs = macs_text(figures)
    table.add_row(macs.label, *macs.texts)
    table.add_row(f"peak activations{AT_ONE if figures.symbolic else ''}", show_bytes(figures.activation_bytes))
    for op, count in figures.operators.items():
        table.add_row(f"  {op}", str(count), style="dim")
    return table


def _opsets_text(figures: Figures, opsets: Mapping[str, int]) -> str:
    """The operator sets that operators of the model are of: onnxruntime's tools write all that they know."""
    domains = {"", *(op.rpartition("::")[0] for op in figures.operators)}
    used = [f"{domain or 'ai.onnx'} {version}" for domain, version in opsets.items() if domain in domains]
    return ", ".join((*used, *([f"{spare} unused"] if (spare := len(opsets) - len(used)) else ())))


def passes_table() -> Table:
    """The registered passes: the schedule in order, then passes that run only when named."""
    from ..pipeline import entry_points, listed

    table = plain_table(("pass", "runs", "kind", "from", "what it does"))
    for item, scheduled in listed():
        when = "in order" if scheduled else "when named"
        table.add_row(item.name, when, "exact" if item.exact else "lossy", item.source, item.summary)
    for offered in entry_points():
        package = offered.dist.name if offered.dist is not None else ""
        table.add_row(offered.name, "when named", "", package, offered.value, style="dim")
    return table


def effects_table(effects: Iterable[Effect]) -> Table:
    """A row a pass: its changes, the nodes and bytes of constants it saved, its time, the rules that fired."""
    numbers = ("changes", "nodes", "constants", "ms")
    table = plain_table(("pass", *numbers, "what"), right=numbers)
    for e in effects:
        fired = ", ".join(f"{name} ×{n}" for name, n in sorted(e.fired.items(), key=lambda kv: -kv[1]))
        saved = e.bytes_after - e.bytes_before
        table.add_row(
            e.name + ("" if e.exact else " (lossy)"),
            str(e.changes),
            f"{e.nodes_after - e.nodes_before:+d}",
            ("+" if saved > 0 else "-" if saved < 0 else "") + show_bytes(abs(saved)),
            f"{e.seconds * 1e3:.1f}",
            fired,
        )
    return table


def stage_table(stage: StageReport, verbose: bool = False) -> Table:
    """A table of a lossy stage: a row a layer or group; with detail columns where `verbose`."""
    from rich.text import Text

    shown = [i for i, heading in enumerate(stage.columns) if verbose or heading not in stage.details]
    headings = [stage.columns[i] for i in shown]
    table = plain_table(headings, right=headings[1:])
    for row in stage.rows:
        table.add_row(*(Text(_cell(row[i])) for i in shown))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
