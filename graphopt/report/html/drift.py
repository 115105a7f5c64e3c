"""The chart of a drift, SQNR along the graph as SVG, and the page around it."""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files

from ...equivalence.drift import Drift, LayerDrift
from ...measure import show_db

_WIDTH, _HEIGHT = 1080, 300
"""Pixels of the chart: as wide as the page's column."""
_NARROW = 350
"""Width of the chart on a phone of 390 pixels, of which the page's borders take 40: text stays readable."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 40
"""Pixels around the plot: room for the labels of the axes."""
_STEP = 20.0
"""dB between lines of the grid: a factor of ten in amplitude."""
_CAP = 140.0
"""dB at which the axis ends: the rounding of float32 (24 bits, 6 dB each). Equal values are drawn there."""
_COLOURS = {"good": "#1d8a5b", "middle": "#c9a227", "bad": "#c4552d"}
_ALONE = """<style>text{font:12px system-ui,sans-serif;fill:#5b6678}
line{stroke:#dde2ea}path{fill:none;stroke:#8a96a8}</style>
<rect width="100%" height="100%" fill="#fff"/>"""


_MADE_UP = "MADE-UP INPUTS: quantized ranges were not chosen for them. Give --inputs to see how real data drift."


def chart(drift: Drift, *, alone: bool = False, width: int = _WIDTH) -> str:
    """SQNR in dB of each matched value, in the original's order; a hover names it.

    alone: as a file of its own. width: in pixels.
    """
    layers = drift.layers
    top = _top(drift)
    across = (width - _LEFT - _RIGHT) / max(1, len(layers) - 1)
    points = [(_LEFT + i * across, _y(layer.sqnr, top)) for i, layer in enumerate(layers)]
    marks = [_grid_line(level, top, width) for level in _levels(top)]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
    dots = [_dot(layer, x, y) for layer, (x, y) in zip(layers, points)]
    style = (
        'xmlns="http://www.w3.org/2000/svg" width="1080" height="300" '
        if alone
        else f'class="drift{" narrow" if width == _NARROW else ""}" '
    )
    middle = (_LEFT + width - _RIGHT) / 2
    parts = [
        f'<svg {style}viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="SQNR along the graph">',
        _ALONE if alone else "",
        *marks,
        f'<path d="{line}"/>' if line else "",
        *dots,
        f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">values in execution order →</text>',
        f'<text x="{_LEFT}" y="{_TOP - 2}">SQNR dB</text>',
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _top(drift: Drift) -> float:
    finite = [layer.sqnr for layer in drift.layers if math.isfinite(layer.sqnr)]
    return min(_CAP, max(3 * _STEP, math.ceil(max(finite, default=0.0) / _STEP) * _STEP))


def _levels(top: float) -> list[float]:
    return [i * _STEP for i in range(round(top / _STEP) + 1)]


def _y(sqnr: float, top: float) -> float:
    return _TOP + (1.0 - min(max(sqnr, 0.0), top) / top) * (_HEIGHT - _TOP - _BOTTOM)


def _grid_line(level: float, top: float, width: int) -> str:
    y = _y(level, top)
    return (
        f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{level:.0f}</text>'
    )


def tone(sqnr: float) -> str:
    """The style of an SQNR: good from 30 dB on (noise is 3 % of the amplitude), middle from 15 (18 %), else bad."""
    return "good" if sqnr >= 30.0 else "middle" if sqnr >= 15.0 else "bad"


def _dot(layer: LayerDrift, x: float, y: float) -> str:
    colour = _COLOURS[tone(layer.sqnr)]
    shape = f'r="4" fill="{colour}"' if math.isfinite(layer.sqnr) else f'r="3.5" fill="none" stroke="{colour}"'
    text = escape(f"{layer.op} {layer.name}: {show_db(layer.sqnr)} dB")
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" {shape}><title>{text}</title></circle>'


def drift_page(drift: Drift, title: str, sentences: list[str]) -> str:
    """The chart, the sentences that conclude it, and the table, as one HTML file that fetches nothing."""
    from jinja2 import Environment, StrictUndefined

    assets = files(__package__) / "assets"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(db=show_db, tone=tone)
    template = environment.from_string((assets / "drift.html").read_text(encoding="utf-8"))
    style = (assets / "style.css").read_text(encoding="utf-8")
    cards = (assets / "cards.js").read_text(encoding="utf-8")
    told = [sentence for sentence in sentences if not sentence.startswith("MADE-UP")]  # the page's banner states this
    unmatched: dict[str, list[str]] = {}
    for name, why in drift.unmatched.items():
        unmatched.setdefault(why, []).append(name)
    return template.render(
        title=title or "two models", drift=drift, sentences=told, style=style, cards=cards, chart=chart(drift),
        narrow=chart(drift, width=_NARROW), unmatched=unmatched,
        banner=_MADE_UP if drift.made_up and any(tone(layer.sqnr) == "bad" for layer in drift.layers) else "",
    )  # fmt: skip
