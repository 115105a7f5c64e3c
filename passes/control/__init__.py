"""Control flow that is known before the model runs: bodies of If, Loop and functions take the place of their node."""

from .branches import inline_branches
from .functions import inline_functions
from .loops import inline_loops

__all__ = ["inline_branches", "inline_functions", "inline_loops"]
