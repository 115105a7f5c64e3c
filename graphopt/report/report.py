"""What an optimisation did, as data and as tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compress.report import StageReport
from ..errors import OptionError, OutputError
from ..measure import Figures, show_bytes, show_change, show_count
from ..pipeline import Effect, RolledBack

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from ..equivalence import Comparison
    from ..provenance import Trail


@dataclass(frozen=True, slots=True)
class Report:
    """Before and after, what each pass did, how the result was proved, what was refused.

    status: "equal", "unverified" (the model cannot be run or its results are noise), "not checked", "original" when
    the model was returned as it came, or "lossy" when a stage such as pruning or quantization changed results; then
    `reason` says what the exact part was worth and what each stage cost. `stages` has a report of each, in
    order; `metric` is the caller's, of the original and of the result, where a lossy stage was judged by one.
    """

    before: Figures
    after: Figures
    effects: tuple[Effect, ...]
    rolled_back: tuple[RolledBack, ...]
    status: str
    reason: str
    comparison: Comparison | None
    notes: tuple[str, ...]
    seconds: float
    seconds_checking: float
    target: str
    seed: int
    stages: tuple[StageReport, ...] = ()
    metric: tuple[float, float] | None = None
    trail: Trail | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "effects": [asdict(effect) for effect in self.effects],
            "rolled_back": [item.to_dict() for item in self.rolled_back],
            "status": self.status,
            "reason": self.reason,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "seconds_checking": self.seconds_checking,
            "target": self.target,
            "seed": self.seed,
            "metric": None if self.metric is None else list(self.metric),
            "stages": [stage.to_dict() for stage in self.stages],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, default=_plain)

    def to_html(self, title: str = "", *, seconds: float = 0.5) -> str:
        """The report as one HTML file that opens offline, with both graphs.

        `seconds`: how long to measure the latency of each candidate on this machine; 0 leaves it out.
        """
        from .html import page

        return page(self, title, seconds=seconds)

    def save(self, path: str | Path, title: str = "", *, seconds: float = 0.5) -> None:
        """Write the report, as HTML or JSON by the name of `path`. OptionError for other names, OutputError."""
        kind = Path(path).suffix
        if kind not in (".html", ".json"):
            raise OptionError(f"report {str(path)!r}: the name ends in .html or .json")
        text = self.to_json() if kind == ".json" else self.to_html(title, seconds=seconds)
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}") from error

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=110, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield figures_table(self.before, self.after, self.metric)
        worked = [effect for effect in self.effects if effect.changes]
        if worked:
            yield _effects_table(worked)
        for item in self.rolled_back:
            where = f" ({item.rewrite})" if item.rewrite and item.rewrite != item.what else ""
            at = f" at {', '.join(item.nodes[:3])}" if item.nodes else ""
            yield f"[yellow]rolled back[/] {item.what}{where}{at}: {item.reason}"
        for stage in self.stages:
            yield f"[bold]{stage.name}[/] {stage.summary}"
            if stage.rows:
                yield _stage_table(stage)
            for what, why in stage.refused:
                yield f"[dim]kept {what}: {why}[/]"
        for note in self.notes:
            yield f"[yellow]note[/] {note}"
        colour = {"equal": "green", "original": "yellow"}.get(self.status, "yellow")
        yield f"[bold {colour}]{self.status}[/] {self.reason}"


def figures_table(before: Figures, after: Figures, metric: tuple[float, float] | None = None) -> Table:
    """Before and after, a row a figure, then the operators whose number changed."""
    from rich.table import Table

    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = (
        ("nodes", before.nodes, after.nodes, str),
        ("file size", before.file_bytes, after.file_bytes, show_bytes),
        ("parameters", before.parameters, after.parameters, show_count),
        ("multiply-accumulates", before.macs, after.macs, show_count),
        ("peak activations", before.activation_bytes, after.activation_bytes, show_bytes),
    )
    for label, old, new, show in rows:
        if old is not None and new is not None:
            table.add_row(label, show(old), show(new), show_change(old, new))
    if metric is not None:
        table.add_row("metric", *(f"{value:.4g}" for value in metric), f"{metric[1] - metric[0]:+.4g}")
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
    table.add_row("opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opsets.items()))
    table.add_row("nodes", str(figures.nodes))
    if figures.file_bytes is not None:
        table.add_row("file size", show_bytes(figures.file_bytes))
    table.add_row("parameters", show_count(figures.parameters))
    note = " (symbolic sizes as 1)" if figures.symbolic else ""
    table.add_row(f"multiply-accumulates{note}", show_count(figures.macs))
    table.add_row(f"peak activations{note}", show_bytes(figures.activation_bytes))
    for op, count in figures.operators.items():
        table.add_row(f"  {op}", str(count), style="dim")
    return table


def passes_table() -> Table:
    """What is registered: the schedule in order, then what runs only when named."""
    from rich.table import Table

    from ..pipeline import entry_points, listed

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("pass", "runs", "kind", "from", "what it does"):
        table.add_column(heading)
    for item, scheduled in listed():
        when = "in order" if scheduled else "when named"
        table.add_row(item.name, when, "exact" if item.exact else "lossy", item.source, item.summary)
    for offered in entry_points():
        package = offered.dist.name if offered.dist is not None else ""
        table.add_row(offered.name, "when named", "", package, offered.value, style="dim")
    return table


def _effects_table(effects: list[Effect]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("pass")
    for heading in ("changes", "nodes", "constants", "ms"):
        table.add_column(heading, justify="right")
    table.add_column("what")
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


def _stage_table(stage: StageReport) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, heading in enumerate(stage.columns):
        table.add_column(heading, justify="right" if i else "left")
    for row in stage.rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
