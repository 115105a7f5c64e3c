"""The cost of layers by their channels: multiply-accumulates, parameters or seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ....analysis.channels import ChannelFacts, Classes
from ....calibration.activations import Taps
from ....equivalence.feeds import Feeds
from ....ir import Array, Model, Node
from ....measure import macs_at, macs_values, node_seconds


def cost_of_nodes(kind: str, model: Model, feeds: Feeds) -> dict[Node, float]:
    """The cost of each node at the sizes of a sample."""
    if kind == "speedup":
        return node_seconds(model, feeds)
    if kind == "parameters":
        return _parameters(model)
    taps = Taps(model, list(dict.fromkeys(macs_values(model))))
    shapes = {value: np.shape(array) for value, array in taps.run(feeds).items()}
    return {node: float(macs) for node, macs in macs_at(model, shapes).items()}


def _parameters(model: Model) -> dict[Node, float]:
    """Elements of constants of at least one axis, each counted at the first node that reads it."""
    seen: set[object] = set()
    counts: dict[Node, float] = {}
    for node in model.graph.walk():
        for value in node.inputs:
            if value is not None and value.constant is not None and value.constant.shape and value not in seen:
                seen.add(value)
                counts[node] = counts.get(node, 0.0) + value.constant.size
    return counts


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of nodes at their present widths, and the total of the original model.

    A layer costs in proportion to its outputs and to its inputs, any other node to the elements of its result.
    """

    of: Mapping[Node, float]
    total: float

    def per_class(self, facts: ChannelFacts) -> Array:
        """float64[count]: the saving of removing one class alone."""
        saved = np.zeros(facts.count)
        for cost, ends in self._ends(facts):
            for classes in ends:
                np.add.at(saved, classes, cost / len(classes))
        return saved

    def share(self, facts: ChannelFacts, kept: Array) -> float:
        """The remaining share of the total when the classes `kept` (bool[count]) stay."""
        return sum(self._left(facts, kept).values()) / self.total if self.total else 1.0

    def narrowed(self, facts: ChannelFacts, kept: Array) -> Costs:
        """The costs after removing all classes but `kept`."""
        return Costs(self._left(facts, kept), self.total)

    def _left(self, facts: ChannelFacts, kept: Array) -> dict[Node, float]:
        ends = _ends_of_layers(facts)
        left = {}
        for node, cost in self.of.items():
            factors = [float(kept[classes].mean()) for classes in ends.get(node) or _ends_of(node, facts)]
            left[node] = cost * float(np.prod(factors)) if factors else cost
        return left

    def _ends(self, facts: ChannelFacts) -> Iterator[tuple[float, list[Classes]]]:
        ends = _ends_of_layers(facts)
        for node, cost in self.of.items():
            yield cost, ends.get(node) or _ends_of(node, facts)


def _ends_of_layers(facts: ChannelFacts) -> dict[Node, list[Classes]]:
    """The classes on the outputs, and on the inputs, of each layer; once for a depthwise layer."""
    ends = {}
    for layer in facts.layers:
        both = (layer.outputs,) if layer.kind == "depthwise" else (layer.outputs, layer.inputs)
        ends[layer.node] = [classes for classes in both if classes is not None and len(classes)]
    return ends


def _ends_of(node: Node, facts: ChannelFacts) -> list[Classes]:
    """The classes on the axes of a node's result, and on the axis over which a product of two activations sums."""
    axes = list(facts.axes.get(node.output) or ()) if node.outputs else []
    left = None if node.op != "MatMul" or node.inputs[0] is None else facts.axes.get(node.inputs[0])
    if left:
        axes.append(left[-1])
    return [classes for classes in axes if classes is not None and len(classes)]
