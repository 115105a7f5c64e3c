"""Facts about graphs. An analysis never edits."""

from .sizes import LONGEST, Sizes, derive_sizes, sizes_of_constant

__all__ = ["LONGEST", "Sizes", "derive_sizes", "sizes_of_constant"]
