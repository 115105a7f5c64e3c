"""What an optimisation did: as data, as tables for the terminal, as one HTML page."""

from .report import Report

__all__ = ["Report"]
