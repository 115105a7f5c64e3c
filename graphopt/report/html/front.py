"""The page of a search: the front as an SVG chart, a mark per measured model, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

_WIDTH, _HEIGHT = 1080, 420
"""Size of the chart in pixels: as wide as a drift chart, but higher, since both axes are read."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 24, 46
"""Margins for the labels of the axes."""
_LINES = 5
"""Approximate number of grid lines: readable at a glance."""
_MOST = 11.0
"""The radius of the largest file's mark; areas are proportional to bytes, down to `_LEAST`."""
_LEAST = 4.0
"""The least radius that a pointer can hit."""


def chart(marks: Sequence[Mapping[str, Any]], quality: str) -> str:
    """Speed by quality of each mark, its area by file size; a hover shows the recipe.

    Equal results have infinite quality: their marks are drawn on the upper edge.
    """
    finite = [mark["quality"] for mark in marks if mark["quality"] is not None]
    left, right = _span([0.0, *(mark["speed"] for mark in marks)])
    low, high = _span(finite or [0.0, 1.0])
    largest = max((mark["size"] for mark in marks), default=1) or 1

    def x(speed: float) -> float:
        return _LEFT + (speed - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float | None) -> float:
        share = 1.0 if value is None else (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="front" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="speed by quality">']
    for value in _ticks(low, high):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in _ticks(left, right):
        parts.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:.3g} ×</text>')
    order = {"trial": 0, "peer": 1, "front": 2, "original": 3}
    for mark in sorted(marks, key=lambda mark: order[mark["kind"]]):
        radius = max(_LEAST, _MOST * (mark["size"] / largest) ** 0.5)
        place = f'cx="{x(mark["speed"]):.1f}" cy="{y(mark["quality"]):.1f}" r="{radius:.1f}"'
        parts.append(f'<circle class="{mark["kind"]}" {place}><title>{escape(mark["text"])}</title></circle>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">times the original speed →</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 8}">{escape(quality)} ↑</text></svg>')
    return "\n".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: the values with a twentieth of room on each side."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within an axis, about `_LINES` of them."""
    rough = (high - low) / _LINES
    power = 10.0 ** int(f"{rough:e}".partition("e")[2])
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = -(-low // step)
    return [step * (first + number) for number in range(int((high - first * step) // step) + 1)]


def front_page(
    front: Mapping[str, Any], marks: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[str]],
    headings: Sequence[str], title: str,
) -> str:  # fmt: skip
    """The drawing, the table and the notes as one HTML file that fetches nothing."""
    from jinja2 import Environment, StrictUndefined

    assets = files(__package__) / "assets"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((assets / "front.html").read_text(encoding="utf-8"))
    style = (assets / "style.css").read_text(encoding="utf-8")
    cards = (assets / "cards.js").read_text(encoding="utf-8")
    return template.render(
        title=title or "a model", style=style, cards=cards, chart=chart(marks, front["quality"]), rows=rows,
        headings=headings, notes=front["notes"], trials=front["trials"], points=len(front["points"]),
    )  # fmt: skip
