"""Numbers with units, as text."""

from __future__ import annotations

import math


def show_bytes(value: float) -> str:
    """1234567 as 1.23 MB (decimal units)."""
    size = float(value)
    for unit in ("B", "KB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def show_count(value: float) -> str:
    """1234567 as 1.23 M."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:g}"


def show_db(value: float) -> str:
    """A ratio in dB with one decimal; "same" for no noise at all, "−∞" for no signal."""
    return f"{value:.1f}".replace("-0.0", "0.0") if math.isfinite(value) else "same" if value > 0 else "−∞"


def show_change(old: float, new: float) -> str:
    """The change from `old` to `new` in percent; "=" where there is none, "≈" below 0.05 %."""
    if old == new:
        return "="
    if not old:
        return f"+{new:g}"
    text = f"{(new - old) / old:+.1%}"
    return "≈" if text in ("+0.0%", "-0.0%") else text
