"""The report of an optimisation: data, tables for the terminal, one HTML page; and the trace of a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import Report

__all__ = ["Report"]


def __getattr__(name: str) -> Any:
    if name != "Report":  # tables of models do without it, and without the passes that it imports
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .report import Report

    globals()[name] = Report
    return Report
