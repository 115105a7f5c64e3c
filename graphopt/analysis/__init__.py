"""Facts about graphs, and networkx views for graph questions. An analysis never edits."""

from .networks import critical_path, dominators, node_network, value_network

__all__ = ["critical_path", "dominators", "node_network", "value_network"]
