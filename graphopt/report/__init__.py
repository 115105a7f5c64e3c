"""The report of an optimization: data, terminal tables, Markdown, an HTML page; drift by layer; traces of rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..machine.lazy import names_in

if TYPE_CHECKING:
    from .report import Report

__all__ = ["Report"]

# tables of models need neither the report nor the passes that it imports
__getattr__ = names_in(__name__, {"Report": "report"})
