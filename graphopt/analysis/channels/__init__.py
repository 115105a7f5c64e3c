"""Channel groups of any graph: what can be removed together, and what must change with it."""

from .couplings import (
    NEIGHBOURS,
    RANGE,
    STATISTICS,
    Choice,
    Linear,
    Partition,
    Product,
    Resize,
    Selection,
    Shuffle,
    Statistic,
)
from .facts import LAYERS, Channels, Classes, Group, Held, channels

__all__ = [
    "LAYERS",
    "NEIGHBOURS",
    "RANGE",
    "STATISTICS",
    "Channels",
    "Choice",
    "Classes",
    "Group",
    "Held",
    "Linear",
    "Partition",
    "Product",
    "Resize",
    "Selection",
    "Shuffle",
    "Statistic",
    "channels",
]
