"""The report of an optimisation: data, tables for the terminal, one HTML page; and the trace of a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..machine.lazy import names_in

if TYPE_CHECKING:
    from .report import Report

__all__ = ["Report"]

# tables of models do without the report, and without the passes that it imports
__getattr__ = names_in(__name__, {"Report": "report"})
