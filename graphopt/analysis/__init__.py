"""Analyses, which derive facts about graphs and never edit them."""

from .sizes import LONGEST, Sizes, derive_sizes, sizes_of_constant

__all__ = ["LONGEST", "Sizes", "derive_sizes", "sizes_of_constant"]
