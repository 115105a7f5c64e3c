"""Rewrites that only remove: dead and repeated nodes, operators that return an operand, steps that cancel."""

from .casts import drop_cast_islands
from .compose import drop_zero_states, join_steps
from .constants import merge_identical_constants
from .cse import merge_common_subexpressions
from .dead import remove_dead_nodes
from .identity import drop_identities
from .ties import tie_heads

__all__ = [
    "drop_cast_islands", "drop_identities", "drop_zero_states", "join_steps", "merge_common_subexpressions",
    "merge_identical_constants", "remove_dead_nodes", "tie_heads",
]  # fmt: skip
