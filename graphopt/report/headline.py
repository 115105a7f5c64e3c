"""The headline of a report: size, speed, quality and validation in one line, the same wherever a report is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data import ReportData

_SAME_SIZE = 0.005
"""Relative change of a file's size below which two decimals show 1.00: the size then counts as unchanged."""
_SHARES = re.compile(r"accuracy|precision|recall|top-?\d|\b(acc|f1|auc)\b")
"""Names of metrics that are shares, shown in percent."""
_SHAPES = 2
"""The most input shapes in a headline; more would outgrow the rest of it."""
_VERDICTS = {"equal": "validated", "unverified": "not verified", "not checked": "not validated"}


def headline(report: ReportData) -> str:
    """The headline. A part that was not measured is absent: speed without `report.latency`, quality without a metric
    and without the caller's data.

        3.96 × smaller · 2.16 × faster (± 3 %, 1 thread, 1×3×224×224, this CPU) ·
        accuracy 92.4 → 92.25 % on 2,000 samples · validated
    """
    quality = quality_part(report)
    parts = (
        _size(report), _nodes(report), speed_part(report), quality, recovered_part(report),
        _verdict(report, bool(quality)),
    )  # fmt: skip
    return " · ".join(part for part in parts if part)


def _size(report: ReportData) -> str:
    before, after = report.before.file_bytes, report.after.file_bytes
    if not before or not after:
        return ""
    if abs(after / before - 1) < _SAME_SIZE:
        return "same size"
    return f"{before / after:.2f} × smaller" if after < before else f"{after / before:.2f} × larger"


def _nodes(report: ReportData) -> str:
    """The change in nodes of an exact run; "" for lossy ones: quantization adds nodes for scales, as no real growth."""
    before, after = report.before.nodes, report.after.nodes
    return "" if report.is_lossy or before == after else f"{before:,} → {after:,} nodes"


def speed_part(report: ReportData) -> str:
    """How many times as fast in the target's runtime, with the 95 % interval and the conditions; "" if unmeasured."""
    latency = report.latency
    run = None if latency is None else latency.in_runtime_of(report.target)
    if latency is None or run is None:
        return ""
    speed = f"{run.ratio:.2f} × faster" if run.ratio > 1 else f"{1 / run.ratio:.2f} × slower"
    speed = speed if run.is_clear else "as fast as before"
    runtime = ["graphopt.Session"] if run.runtime == "Session" else []
    interval = f"± {max(1, math.ceil(100 * run.interval))} %"
    return f"{speed} ({', '.join([interval, '1 thread', *runtime, *_shapes(latency.shapes), 'this CPU'])})"


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    texts = list(dict.fromkeys("×".join(map(str, shape)) for shape in shapes.values() if shape))
    return texts[:_SHAPES] + (["…"] if len(texts) > _SHAPES else [])


def quality_part(report: ReportData) -> str:
    """The caller's metric before and after, else the fidelity on the caller's data; "" where neither was given."""
    if report.metric is not None:
        shown = " → ".join(_score(report.metric_name, report.metric))
        return f"{report.metric_name} {shown}{_samples(report.metric_samples)}"
    return "" if report.fidelity is None else f"{report.fidelity}{_samples(report.fidelity_samples)}"


def _score(name: str, values: tuple[float, float]) -> tuple[str, str]:
    if _SHARES.search(name.lower()) and all(0 <= value <= 1 for value in values):
        return f"{100 * values[0]:.4g}", f"{100 * values[1]:.4g} %"
    return f"{values[0]:.4g}", f"{values[1]:.4g}"


def recovered_part(report: ReportData) -> str:
    """The gain of training after the last lossy stage, on held-out samples; "" without training or gain."""
    gained = [stage.figures for stage in report.stages if stage.changed and "agreement_before" in (stage.figures or {})]
    if not gained or gained[-1] is None:
        return ""
    figures, where = gained[-1], f"{gained[-1]['held_out']:,} held-out samples"
    if figures["agreement_before"] is not None:
        return f"recovered {figures['agreement_before']:.1%} → {figures['agreement_after']:.1%} top-1 on {where}"
    if figures["sqnr_before"] is None or figures["sqnr_after"] is None:
        return ""
    return f"recovered {figures['sqnr_before']:.1f} → {figures['sqnr_after']:.1f} dB on {where}"


def _samples(count: int) -> str:
    return f" on {count:,} samples" if count > 1 else " on 1 sample" if count else ""


def _verdict(report: ReportData, has_quality: bool) -> str:
    """The exact passes' verdict; "loss not measured" for a lossy result without metric and data."""
    verdict = report.validation or report.status
    if report.is_lossy and verdict == "equal" and not has_quality:
        return "loss not measured"
    return _VERDICTS.get(verdict, verdict)
