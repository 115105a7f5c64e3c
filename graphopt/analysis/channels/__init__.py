"""Channel groups of any graph: channels that can be removed together, and the operators that must then change."""

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
