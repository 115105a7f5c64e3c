"""Channel groups of any graph: what can be removed together, and what must change with it."""

from .couplings import (
    NEIGHBOURS,
    RANGE,
    STATISTICS,
    ActivationProduct,
    ConstantGather,
    GrowingReduction,
    InputSelection,
    Shuffle,
    SizeUpdate,
    WeightedLayer,
)
from .facts import LAYERS, ChannelFacts, ChannelGroup, Classes, FixedLayer, find_channels

__all__ = [
    "LAYERS", "NEIGHBOURS", "RANGE", "STATISTICS", "ActivationProduct", "ChannelFacts", "ChannelGroup",
    "Classes", "ConstantGather", "FixedLayer", "GrowingReduction", "InputSelection", "Shuffle", "SizeUpdate",
    "WeightedLayer", "find_channels",
]  # fmt: skip
