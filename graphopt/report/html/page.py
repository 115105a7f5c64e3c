"""The page: figures, passes, stages, costs and drawings, which Jinja2 puts into the template."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from ...compress.report import StageReport
from ...measure import AT_ONE, macs_text, show_bytes, show_change, show_count, show_db
from ..data import ReportData
from ..headline import headline
from .cost import Layer, layers
from .drawing import drawings
from .layer_times import measure_layers

_LAYERS = 400
"""The most rows of the table of layers; the rest is counted. No reader scrolls further, and the page stays small."""
_LABELS = {
    "share_of_macs": "share of MACs on integers", "layers": "layers on integers", "layers_float": "layers left float",
    "samples": "calibration samples", "calibrate_method": "ranges chosen by", "pair_safe": "16-bit sums are exact",
    "objective_before": "squared error, nearest codes", "objective_after": "squared error, codes found",
    "per_channel_activations": "activations with scales a channel", "channels": "channels",
    "removed": "channels removed", "stalled": "layers that are no faster", "refitted": "refitted layers",
}  # fmt: skip
"""Labels of stage figures on the page. Others are not shown: sizes and speeds are in the page's first table."""
_REACHED = "the share asked for is reached"
"""The reason why no more channels were removed from a group without constraints."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure before and after. `share` is after / before, the length of the bar; None for no bar."""

    label: str
    before: str
    after: str
    change: str = ""
    share: float | None = None
    better: bool | None = None


def page(report: ReportData, title: str = "") -> str:
    """The report as HTML; both graphs are drawn where it has `report.trail`."""
    from jinja2 import Environment, StrictUndefined

    assets = files(__package__) / "assets"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        bytes=show_bytes, count=show_count, cell=_cell, us=_microseconds, db=show_db, whole=_whole
    )
    trail = report.trail
    template = environment.from_string((assets / "page.html").read_text(encoding="utf-8"))
    costs = [] if trail is None else layers(trail.result, measure_layers(trail, report.latency))
    return template.render(
        title=title or (trail.original.graph.name if trail else "") or "model",
        style=(assets / "style.css").read_text(encoding="utf-8"),
        script=(assets / "viewer.js").read_text(encoding="utf-8"),
        cards=(assets / "cards.js").read_text(encoding="utf-8"), report=report,
        headline=headline(report), figures=figure_rows(report), latency=report.latency,
        latency_rows=latency_rows(report),
        reason=_without_speed(report.reason) if report.latency is not None and report.latency.runs else report.reason,
        operators=_operators(report), effects=[effect for effect in report.effects if effect.changes],
        idle=len([effect for effect in report.effects if not effect.changes]),
        stages=[_stage(stage) for stage in report.stages], refused=_refused(report), layers=costs[:_LAYERS],
        omitted_layers=max(0, len(costs) - _LAYERS), most=_most(costs),
        drawings=None if trail is None else drawings(trail), machine=_machine(), change=show_change,
    )  # fmt: skip


def _without_speed(reason: str) -> str:
    """The reason without the speed that a stage measured in its own runs: the page shows a newly measured speed."""
    return re.sub(r",? \d[\d.]*× as fast( as predicted)?(?=[;,.]|$)", "", reason)


def figure_rows(report: ReportData) -> list[Row]:
    """The figures before and after; multiply-accumulates as a multiple of the sizes that the model leaves open."""
    before, after = report.before, report.after
    open_sizes = before.symbolic or after.symbolic
    rows = [
        _figure("file size", before.file_bytes, after.file_bytes, show_bytes),
        _figure("nodes", before.nodes, after.nodes, show_count),
        _figure("parameters", before.parameters, after.parameters, show_count),
        _macs(report),
        _figure(
            "peak activations" + (AT_ONE if open_sizes else ""),
            before.activation_bytes,
            after.activation_bytes,
            show_bytes,
            sized=open_sizes,
        ),
    ]
    return [*(row for row in rows if row is not None), *_quality(report)]


def _figure(
    label: str, old: int | None, new: int | None, show: Callable[[float], str], *, sized: bool = False
) -> Row | None:
    """The row of a figure. Growth is not marked as worse where more sizes became known (`sized`), nor for nodes: int8
    adds nodes for scales."""
    if old is None or new is None:
        return None
    if sized and new > old:
        return Row(label, show(old), show(new))
    better = True if new < old else False if new > 1.005 * old and label != "nodes" else None
    return Row(label, show(old), show(new), show_change(old, new), new / old if old else None, better)


def _macs(report: ReportData) -> Row:
    """Multiply-accumulates before and after; a change only where both depend on the same open sizes in the same way."""
    macs = macs_text(report.before, report.after)
    row = None if macs.counts is None else _figure(macs.label, *macs.counts, show_count)
    return replace(row or Row(macs.label, "", ""), before=macs.texts[0], after=macs.texts[1])


def _quality(report: ReportData) -> list[Row]:
    """The caller's metric before and after; higher is better."""
    if report.metric is None:
        return []
    old, new = report.metric
    return [Row(report.metric_name, f"{old:.4g}", f"{new:.4g}", f"{new - old:+.4g}", None, new >= old)]


def latency_rows(report: ReportData) -> list[Row]:
    """Latency in the target's runtime: before, after, and how many times as fast, from paired runs; none unmeasured."""
    run = None if report.latency is None else report.latency.in_runtime_of(report.target)
    if run is None:
        return []
    times = f"{run.before * 1e3:.3g} ms", f"{run.after * 1e3:.3g} ms", f"{run.ratio:.2f}×"
    return [Row(f"latency, {run.runtime}", *times, 1 / run.ratio, run.ratio > 1 if run.is_clear else None)]


def _operators(report: ReportData) -> list[tuple[str, int, int]]:
    """Operators with their numbers before and after, the largest change first."""
    before, after = Counter(report.before.operators), Counter(report.after.operators)
    ops = sorted({*before, *after}, key=lambda op: (-abs(after[op] - before[op]), -before[op], op))
    return [(op, before[op], after[op]) for op in ops]


def _refused(report: ReportData) -> list[tuple[str, str, str]]:
    """Rewrites that were rolled back and layers that stages refused: by whom, where, the failed check."""
    rows = []
    for item in report.rolled_back:
        who = item.what if item.rewrite in ("", item.what) else f"{item.what} · {item.rewrite}"
        rows.append((who, ", ".join(item.nodes[:6]), item.reason))
    rows += [(stage.name, what, why) for stage in report.stages for what, why in stage.refused]
    return rows


def _stage(stage: StageReport) -> dict[str, Any]:
    """A stage for the template: its report, columns with their bars' scale, figures as tiles and as tables."""
    columns: list[dict[str, Any]] = []
    for i, heading in enumerate(stage.columns):
        values = [row[i] for row in stage.rows if i < len(row) and row[i] is not None]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        number = bool(values) and len(numbers) == len(values)
        most = max(map(abs, numbers)) if number and len(set(values)) > 1 else 0
        columns.append({"name": heading, "number": number, "most": most})
    pair = [column for column in columns if column["name"] in ("before", "after") and column["most"]]
    for column in pair:
        column["most"] = max(other["most"] for other in pair)
    figures = {name: value for name, value in (stage.figures or {}).items() if value not in (None, "", [], (), {})}
    tables = {_LABELS.get(name, name.replace("_", " ")): value for name, value in figures.items() if _is_table(value)}
    tiles = {_LABELS[name]: value for name, value in figures.items() if name in _LABELS and not _is_table(value)}
    if not figures.get("per_channel_activations"):
        tiles.pop(_LABELS["per_channel_activations"], None)
    if "share_of_macs" in figures:
        tiles[_LABELS["share_of_macs"]] = f"{figures['share_of_macs']:.0%}"
    last = [column == "why not fewer" for column in stage.columns]
    rows = [[_REACHED if why and not cell else cell for cell, why in zip(row, last)] for row in stage.rows]
    told = [i for i in range(len(columns)) if any(i < len(row) and row[i] not in (None, "") for row in rows)]
    columns = [columns[i] for i in told]  # omits columns that are empty for every layer
    rows = [[row[i] if i < len(row) else None for i in told] for row in rows]
    return {"report": stage, "columns": columns, "rows": rows, "tiles": tiles, "tables": tables}


def _is_table(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(row, dict) for row in value)


def _most(costs: list[Layer]) -> dict[str, float]:
    return {
        key: max((getattr(layer, key) for layer in costs), default=0)
        for key in ("microseconds", "macs", "weight_bytes", "result_bytes")
    }


def _cell(value: Any) -> str:
    """The text of a cell of any type."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 100_000:
        return show_count(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    return str(value)


def _whole(text: str) -> str:
    """A figure with its unit, joined by no-break spaces; a sum may break at its signs."""
    return text.replace(" ", "\u00a0").replace("\u00a0+\u00a0", " + ")


def _microseconds(value: float) -> str:
    return f"{value:.3g} µs" if value < 1000 else f"{value / 1000:.3g} ms"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
