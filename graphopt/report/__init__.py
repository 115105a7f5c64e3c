"""The report of an optimisation: data, tables for the terminal, one HTML page; and the trace of a rule."""

from .report import Report

__all__ = ["Report"]
