"""The width of each group before any step: requested shares refer to it."""

from __future__ import annotations

import numpy as np

from ....analysis.channels import ChannelFacts, ChannelGroup
from ....ir import Array, Node


class Widths:
    """The original number of classes of each group, tracked through removals."""

    def __init__(self, facts: ChannelFacts) -> None:
        sizes = np.zeros(facts.count, np.int64)
        for group in facts.groups:
            sizes[group.classes] = group.size
        self._of: dict[Node, Array] = {
            layer.node: sizes[layer.outputs] for layer in facts.layers if layer.outputs is not None
        }

    def before(self, group: ChannelGroup) -> int:
        """The original number of classes of a group; the present number for a group that no layer produces."""
        for layer in group.makers:
            sizes = self._of.get(layer.node)
            if sizes is not None and layer.outputs is not None:
                return int(sizes[np.isin(layer.outputs, group.classes)].max(initial=group.size))
        return group.size

    def narrow(self, facts: ChannelFacts, kept: Array) -> None:
        """Update after the removal of all classes but `kept`, bool[classes]."""
        for layer in facts.layers:
            if layer.outputs is not None and layer.node in self._of:
                self._of[layer.node] = self._of[layer.node][kept[layer.outputs]]
