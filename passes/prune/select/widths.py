"""The width of each group before any step: shares that are asked for are shares of it."""

from __future__ import annotations

import numpy as np

from ....analysis.channels import ChannelFacts, ChannelGroup
from ....ir import Array, Node


class Widths:
    """The classes that each group had, followed through the steps that remove some."""

    def __init__(self, facts: ChannelFacts) -> None:
        sizes = np.zeros(facts.count, np.int64)
        for group in facts.groups:
            sizes[group.classes] = group.size
        self._of: dict[Node, Array] = {
            layer.node: sizes[layer.outputs] for layer in facts.layers if layer.outputs is not None
        }

    def before(self, group: ChannelGroup) -> int:
        """Classes that a group had; those of now for one that no layer makes."""
        for layer in group.makers:
            sizes = self._of.get(layer.node)
            if sizes is not None and layer.outputs is not None:
                return int(sizes[np.isin(layer.outputs, group.classes)].max(initial=group.size))
        return group.size

    def narrow(self, facts: ChannelFacts, kept: Array) -> None:
        """Follow the removal of all classes but `kept`, bool[classes]."""
        for layer in facts.layers:
            if layer.outputs is not None and layer.node in self._of:
                self._of[layer.node] = self._of[layer.node][kept[layer.outputs]]
