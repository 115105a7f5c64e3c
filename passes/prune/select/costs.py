"""The cost of layers by their channels: multiply-accumulates, parameters or seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ....analysis.channels import ChannelFacts, Classes
from ....calibration.activations import Taps
from ....equivalence.feeds import Feeds
from ....ir import Array, Model, Node
from ....machine.measurements import Measurements
from ....measure import macs_at, macs_values, node_seconds, structure_digest
from ....measure.macs import declared_sizes


def cost_of_nodes(kind: str, model: Model, feeds: Feeds) -> dict[Node, float]:
    """The cost of each node at the sizes of a sample."""
    if kind == "speedup":
        return _kept_seconds(model, feeds)
    if kind == "parameters":
        return _parameters(model)
    taps = Taps(model, list(dict.fromkeys(macs_values(model))))
    shapes = {value: np.shape(array) for value, array in taps.run(feeds).items()}
    return {node: float(macs) for node, macs in macs_at(model, shapes).items()}


def _kept_seconds(model: Model, feeds: Feeds) -> dict[Node, float]:
    """The seconds of each node, kept for models of the same structure on this machine; 0.0 for nodes that
    onnxruntime does not run."""
    order, key, table = model.graph.snapshot(), structure_digest(model, feeds), Measurements("nodes")
    known = table.load()
    if any(f"{key}:{i}" not in known for i in range(len(order))):
        seconds = node_seconds(model, feeds)
        known = {f"{key}:{i}": (seconds.get(node, 0.0), 0.0) for i, node in enumerate(order)}
        table.add(known)
    return {node: known[f"{key}:{i}"][0] for i, node in enumerate(order)}


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
            for classes in ends.classes:
                np.add.at(saved, classes, cost * ends.part / len(classes))
        return saved

    def share(self, facts: ChannelFacts, kept: Array) -> float:
        """The remaining share of the total when the classes `kept` (bool[count]) stay."""
        return sum(self._left(facts, kept).values()) / self.total if self.total else 1.0

    def narrowed(self, facts: ChannelFacts, kept: Array) -> Costs:
        """The costs after removing all classes but `kept`."""
        return Costs(self._left(facts, kept), self.total)

    def _left(self, facts: ChannelFacts, kept: Array) -> dict[Node, float]:
        left = {}
        for cost, ends in self._ends(facts):
            share = float(np.prod([float(kept[classes].mean()) for classes in ends.classes]))
            left[ends.node] = cost * (share if ends.part == 1.0 else 1.0 - ends.part * (1.0 - share))
        return left

    def _ends(self, facts: ChannelFacts) -> Iterator[tuple[float, _Ends]]:
        ends = _ends_of_layers(facts)
        for node, cost in self.of.items():
            yield cost, ends.get(node) or _Ends(node, _ends_of(node, facts))


@dataclass(frozen=True, slots=True)
class _Ends:
    """The classes on the outputs, and on the inputs, of a node; `part`: the share of its cost that they scale."""

    node: Node
    classes: list[Classes]
    part: float = 1.0


def _ends_of_layers(facts: ChannelFacts) -> dict[Node, _Ends]:
    """The ends of each layer: a depthwise layer has them once, and a recurrent one its inputs, which leave the products
    with its state."""
    ends = {}
    for layer in facts.layers:
        both = (layer.outputs,) if layer.kind == "depthwise" else (layer.outputs, layer.inputs)
        part = _part_of_inputs(layer.node) if layer.kind == "recurrent" else 1.0
        found = [classes for classes in both if classes is not None and len(classes)]
        if found:
            ends[layer.node] = _Ends(layer.node, found, part)
    return ends


def _part_of_inputs(recurrent: Node) -> float:
    """The share of inputs / (inputs + hidden) in a step of a recurrent layer."""
    weights, state = (declared_sizes(recurrent.input(slot)) for slot in (1, 2))
    return math.prod(weights) / (math.prod(weights) + math.prod(state)) if weights and state else 1.0


def _ends_of(node: Node, facts: ChannelFacts) -> list[Classes]:
    """The classes on the axes of a node's result, and on the axis over which a product of two activations sums."""
    axes = list(facts.axes.get(node.output) or ()) if node.outputs else []
    left = None if node.op != "MatMul" or node.inputs[0] is None else facts.axes.get(node.inputs[0])
    if left:
        axes.append(left[-1])
    return [classes for classes in axes if classes is not None and len(classes)]
