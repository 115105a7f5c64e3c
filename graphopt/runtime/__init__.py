"""The runtime: lowering to integer operations, partition, plans over one arena, and the Session that runs them."""

from .describe import Description, NodeArg
from .session import Session, session_of

__all__ = ["Description", "NodeArg", "Session", "session_of"]
