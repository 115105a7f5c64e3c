"""The README's figure: one model, original, optimized, and pruned and quantized: `python -m tests.bench.figure`.

Prints size, nodes, accuracy on the test images (which no decision used) and latency, one thread, interleaved, as the
median of paired ratios to the original in onnxruntime; and draws docs/figure.svg from it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import graphopt
from graphopt.ir import Model, Node
from graphopt.measure import Figures, compare_latency, ort_session, show_bytes
from graphopt.report.html.layout import HEIGHT, WIDTH, Layout, arrange
from models import fashion

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "models" / "fashion_cnn.onnx"
PANEL, TALL, TOP = 300, 236, 76
KINDS = {
    "Conv": "#3f6fc4", "Gemm": "#3f6fc4", "BatchNormalization": "#e0883a", "Relu": "#4ba37c", "Clip": "#4ba37c",
    "Cast": "#c25f5f", "Identity": "#c25f5f",
}  # fmt: skip
LEGEND = (("Conv, Gemm", "#3f6fc4"), ("BatchNormalization", "#e0883a"), ("Relu, Clip", "#4ba37c"),
          ("Cast, Identity", "#c25f5f"), ("other", "#aab4c4"), ("in int8", "#24408a"))  # fmt: skip
_SCALES = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Stage:
    """One state of the model, and what was measured of it."""

    title: str
    ir: Model
    nodes: int
    size: int
    accuracy: float
    speeds: tuple[tuple[str, float], ...]


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each candidate")
    arguments = parser.parse_args()
    exact = graphopt.optimize(SOURCE)
    assert exact.report.status == "equal", exact.report.reason
    small = graphopt.optimize(
        SOURCE,
        prune=graphopt.Prune(ratio=0.3, speed=False),
        quantize=graphopt.Quantize(mode="static", speed=False),
        calibration=ROOT / "models" / "fashion_calibration.npz",
        metric=fashion.accuracy,
        max_drop=0.01,
    )
    sessions: dict[str, Any] = {
        "original": ort_session(str(SOURCE)),
        "exact": ort_session(exact.model.SerializeToString()),
        "int8": ort_session(small.model.SerializeToString()),
        "Session": small.session(threads=1),
    }
    images, _ = fashion.load("test")
    timings = compare_latency(sessions, {"image": images[:1]}, seconds=arguments.seconds)
    ratio = {timing.label: timing.ratio for timing in timings}
    top1 = {label: fashion.test_accuracy(session) for label, session in sessions.items()}
    trail = exact.report.trail
    assert trail is not None
    stock, own = "onnxruntime", "Session"
    stages = (
        _stage("as exported", trail.original, exact.report.before, top1["original"], {stock: 1.0}),
        _stage("optimised, validated", exact.ir, exact.report.after, top1["exact"], {stock: ratio["exact"]}),
        _stage("pruned, int8", small.ir, small.report.after, top1[own], {stock: ratio["int8"], own: ratio[own]}),
    )
    for stage in stages:
        speeds = ", ".join(f"{where} {speed:.2f}x" for where, speed in stage.speeds)
        print(f"{stage.title}: {stage.nodes} nodes, {show_bytes(stage.size)}, top-1 {stage.accuracy:.2%}, {speeds}")
    (ROOT / "docs" / "figure.svg").write_text(svg(stages))


def _stage(title: str, ir: Model, figures: Figures, accuracy: float, speeds: dict[str, float]) -> Stage:
    assert figures.file_bytes is not None
    return Stage(title, ir, figures.nodes, figures.file_bytes, accuracy, tuple(speeds.items()))


def svg(stages: tuple[Stage, ...]) -> str:
    """The stages side by side: graph, figures, speeds as bars."""
    wide, tall = PANEL * len(stages), TOP + TALL + 128
    placed = [_place(stage.ir) for stage in stages]
    scale = min(min((PANEL - 40) / p.layout.width, (TALL - 16) / p.layout.height) for p in placed)
    drawn = [_graph(p, scale) for p in placed]
    fastest = max(speed for stage in stages for _, speed in stage.speeds)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" '
        'font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="13" fill="#1c2330">',
        f'<rect width="{wide}" height="{tall}" rx="12" fill="#fbfcfd"/>',
    ]
    for i, stage in enumerate(stages):
        left = i * PANEL + 20
        parts.append(f'<text x="{left}" y="34" font-size="16" font-weight="600">{stage.title}</text>')
        told = f"{stage.nodes} nodes · {show_bytes(stage.size)} · top-1 {stage.accuracy:.1%}"
        parts.append(f'<text x="{left}" y="56" fill="#5b6678">{told}</text>')
        parts.append(f'<g transform="translate({left} {TOP})">{drawn[i]}</g>')
        for j, (where, speed) in enumerate(stage.speeds):
            y = TOP + TALL + 16 + 24 * j
            parts.append(f'<text x="{left}" y="{y}" font-size="12">{where}</text>')
            length = (PANEL - 170) * speed / fastest
            parts.append(f'<rect x="{left + 84}" y="{y - 10}" width="{length:.1f}" height="12" rx="4" fill="#2f62c8"/>')
            parts.append(f'<text x="{left + 90 + length:.1f}" y="{y}" font-size="12">{speed:.2f}×</text>')
    x = 20
    for label, colour in LEGEND:
        parts.append(f'<rect x="{x}" y="{tall - 46}" width="11" height="11" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17}" y="{tall - 36}" font-size="12" fill="#5b6678">{label}</text>')
        x += 34 + 7 * len(label)
    note = "speed: one thread, one image, relative to the model as exported in onnxruntime; "
    parts.append(
        f'<text x="20" y="{tall - 14}" font-size="11" fill="#5b6678">{note}scales of int8 are not drawn</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class Placed:
    """Nodes, and where they go."""

    nodes: tuple[Node, ...]
    layout: Layout


def _place(model: Model) -> Placed:
    """Lay out the nodes of a model but for those that only scale integers."""
    nodes = [node for node in model.graph if node.op not in _SCALES]
    number = {node: i for i, node in enumerate(nodes)}
    edges = []
    for node in nodes:
        for value in node.inputs:
            source = None if value is None else value.producer
            while source is not None and source.op in _SCALES:
                source = source.inputs[0].producer if source.inputs[0] is not None else None
            if source is not None:
                edges.append((number[source], number[node]))
    return Placed(tuple(nodes), arrange(len(nodes), edges))


def _graph(placed: Placed, scale: float) -> str:
    """The nodes as boxes, coloured by what they do."""
    lines = []
    for points in placed.layout.routes.values():
        path = f"M{points[0][0]:.0f} {points[0][1] + HEIGHT / 2:.0f}"
        for (x0, y0), (x1, y1) in pairwise(points):
            top = y1 - (HEIGHT / 2 if (x1, y1) == points[-1] else 0)
            middle = (y0 + top) / 2
            path += f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {top:.0f}"
        opacity = 0.25 if any(b[1] < a[1] for a, b in pairwise(points)) else 0.8
        lines.append(f'<path d="{path}" fill="none" stroke="#8b96a8" stroke-opacity="{opacity}"/>')
    boxes = []
    for node, (x, y) in zip(placed.nodes, placed.layout.points):
        integer = any(v is not None and v.producer is not None and v.producer.op in _SCALES for v in node.inputs)
        colour = "#24408a" if integer else KINDS.get(node.op, "#aab4c4")
        box = f'x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH:.0f}" height="{HEIGHT:.0f}"'
        boxes.append(f'<rect {box} rx="7" fill="{colour}"><title>{node.op}</title></rect>')
    return f'<g transform="scale({scale:.4f})" stroke-width="3">{"".join(lines)}{"".join(boxes)}</g>'


if __name__ == "__main__":
    main()
