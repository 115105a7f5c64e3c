"""Facts about graphs, and networkx views for graph questions. An analysis never edits."""

from .networks import critical_path, dominators, node_network, value_network
from .sizes import LONGEST, Sizes, derive_sizes, sizes_of_constant

__all__ = [
    "LONGEST",
    "Sizes",
    "critical_path",
    "derive_sizes",
    "dominators",
    "node_network",
    "sizes_of_constant",
    "value_network",
]
