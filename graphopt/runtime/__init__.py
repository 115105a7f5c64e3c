"""The runtime: lowering to integer operations, partition, plans over one arena, and the Session that runs them."""

from .describe import Description, NodeArg
from .session import Session

__all__ = ["Description", "NodeArg", "Session"]
