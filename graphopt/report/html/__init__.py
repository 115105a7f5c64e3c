"""The report as one HTML file that opens without a network."""

from .page import page

__all__ = ["page"]
