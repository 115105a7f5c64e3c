"""The runtime: lowering to integer operations, partition, plans over one arena, and the Session that runs them."""

from .session import Description, NodeArg, Session

__all__ = ["Description", "NodeArg", "Session"]
