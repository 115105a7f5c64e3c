"""Control flow that is decided before the model runs: branches, loops and calls stand in line."""

from .branches import inline_branches
from .functions import inline_functions
from .loops import inline_loops

__all__ = ["inline_branches", "inline_functions", "inline_loops"]
