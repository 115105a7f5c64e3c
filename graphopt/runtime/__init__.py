"""The runtime: models lowered to operations on codes, partitioned into regions, compiled, and run by a Session."""

from .describe import Description, NodeArg
from .session import Session, session_of

ROOMS = ("lower", "compile", "place", "cache", "execute", "describe", "feeds", "session", "profile", "warmup")
"""Rooms and files from the lowest up; imports go down only."""

__all__ = ["Description", "NodeArg", "Session", "session_of"]
