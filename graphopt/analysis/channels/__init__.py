"""Channel groups of any graph: what can be removed together, and what must change with it."""

from .facts import Channels, Classes, Group, Held, channels
from .tracker import NEIGHBOURS, STATISTICS, Choice, Linear, Partition, Resize, Shuffle

__all__ = [
    "NEIGHBOURS",
    "STATISTICS",
    "Channels",
    "Choice",
    "Classes",
    "Group",
    "Held",
    "Linear",
    "Partition",
    "Resize",
    "Shuffle",
    "channels",
]
