"""Channel groups of any graph: positions of axes that are removed together.

Every position of every axis of every value carries an element. Operators unite, move or fix elements; a class is a set
of elements that are kept or removed together, a group the classes with the same weights, ranked against each other.
Linear in the nodes and in the sizes of axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ...errors import Declined
from ...ir import RETURN, Graph, Model, Node, Value
from . import attention, counting, elementwise, joining, linear, quantized, reshaping
from .couplings import (
    ActivationProduct,
    ConstantGather,
    GrowingReduction,
    InputSelection,
    Shuffle,
    SizeUpdate,
    WeightedLayer,
)
from .elements import Ids
from .tracker import TRANSFERS, Tracker

_ = (
    attention,
    elementwise,
    joining,
    linear,
    quantized,
    reshaping,
)  # importing them fills the table of transfer functions

LAYERS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
)  # fmt: skip
"""Operators with weights that have channels."""

_LEAST_SELECTED = 8
"""The least inputs of a layer that may read a selection: below one vector of floats, a Gather costs more than it saves.
Reasoned, not measured; `python -m tests.bench.prune_floor` shows how many weights selections reach."""

Classes = np.ndarray[Any, np.dtype[np.int64]]
"""For each position of an axis its class, int64[n]."""

Flags = np.ndarray[Any, np.dtype[np.bool_]]

_Coupling = TypeVar("_Coupling", ConstantGather, Shuffle, ActivationProduct, InputSelection, GrowingReduction)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Removable classes with the same layers before and behind them; removable one by one, except in partitions.

    makers, readers: the layers whose outputs, and whose inputs, the classes are. products: MatMuls of two activations
    that sum over the classes. selections: layers that can read a subset of channels that stay; such a group has no
    makers. partitions: classes [parts, size]; equal numbers must be kept in all parts.
    approximate: why removal changes kept values (NEIGHBOURS, STATISTICS, RANGE).
    """

    classes: Classes
    makers: tuple[WeightedLayer, ...]
    readers: tuple[WeightedLayer, ...]
    products: tuple[ActivationProduct, ...]
    partitions: tuple[Classes, ...]
    selections: tuple[InputSelection, ...]
    approximate: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of classes."""
        return len(self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class FixedLayer:
    """A layer with fixed output channels: `channels` out of `of`, and the reason."""

    node: Node
    channels: int
    of: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class ChannelFacts:
    """Result of the analysis. All arrays of elements hold classes, numbered 0 to `count` − 1.

    axes: for each value the classes on its axes, None for fixed axes. removable: bool[count]. static: values computed
    from constants alone.
    """

    count: int
    groups: tuple[ChannelGroup, ...]
    fixed: tuple[FixedLayer, ...]
    axes: dict[Value, tuple[Classes | None, ...]]
    layers: tuple[WeightedLayer, ...]
    size_updates: tuple[SizeUpdate, ...]
    gathers: tuple[ConstantGather, ...]
    shuffles: tuple[Shuffle, ...]
    products: tuple[ActivationProduct, ...]
    selections: tuple[InputSelection, ...]
    reductions: tuple[GrowingReduction, ...]
    removable: Flags
    static: frozenset[Value]


def find_channels(model: Model | Graph) -> ChannelFacts:
    """The channel groups of a model, nested graphs included. Edits nothing."""
    graph = model.graph if isinstance(model, Model) else model
    facts = _analyse(graph, frozenset())
    selected = frozenset(_fixed_layers(facts))
    return _analyse(graph, selected) if selected else facts


def _analyse(graph: Graph, selected: frozenset[Node]) -> ChannelFacts:
    tracker = Tracker(selected)
    _walk(tracker, graph)
    tracker.fix_shared_sizes()
    return _Collector(tracker).collect()


def _fixed_layers(facts: ChannelFacts) -> Iterable[Node]:
    """Dense layers without removable channels, which may still read a selection of their inputs."""
    for layer in facts.layers:
        ends = [classes for classes in (layer.inputs, layer.outputs) if classes is not None]
        if layer.kind != "dense" or any(facts.removable[classes].any() for classes in ends):
            continue
        if layer.inputs is not None and len(layer.inputs) >= _LEAST_SELECTED:
            yield layer.node


def _walk(t: Tracker, graph: Graph) -> None:
    for node in (*graph.snapshot(), graph.return_node):
        if node in t.done:
            continue
        t.location = elementwise.where(node) if node.outputs else node.op
        try:
            _transfer(t, node)
        except Declined as declined:
            reason = f"{t.location}: {declined.reason}"
            _fix_operands(t, node, reason)
            t.declined.append((node, reason))
        for nested in node.subgraphs:
            _walk(t, nested)


def _transfer(t: Tracker, node: Node) -> None:
    if node.op == RETURN:
        _fix_operands(t, node, "a result of the graph")
        return
    if all(t.is_static(v) for v in node.inputs if v is not None) and node.inputs and not node.subgraphs:
        t.static.update(node.outputs)
    if counting.follow_sizes(t, node):
        return
    function = TRANSFERS.get(node.op)
    if function is None:
        raise Declined("how it moves channels is not known")
    function(t, node)


def _fix_operands(t: Tracker, node: Node, reason: str) -> None:
    for value in node.inputs:
        if value is not None and (value in t.known or value.constant is not None):
            t.fix_all(t.axes(value), reason)
        if value is not None:
            counting.fix_sizes(t, value, reason)
    for out in node.outputs:
        t.fix_all([None if axis is None else t.ids_of(axis) for axis in t.known.pop(out, ())], reason)
        t.vectors.pop(out, None)


class _Collector:
    """Turns the elements of a tracker into classes and groups."""

    def __init__(self, t: Tracker) -> None:
        self.t = t
        roots = t.elements.roots()
        _, self.class_of = np.unique(roots, return_inverse=True)
        self.count = int(self.class_of.max(initial=-1)) + 1
        self.layers = tuple(
            replace(
                layer,
                outputs=None if layer.outputs is None else self.class_of[layer.outputs],
                inputs=None if layer.inputs is None else self.class_of[layer.inputs],
            )
            for layer in t.layers
        )
        self.products, self.selections = self.renumbered(t.products), self.renumbered(t.selections)

    def classes(self, ids: Ids | None) -> Classes:
        """The classes of elements; empty for a fixed axis."""
        return self.class_of[:0] if ids is None else self.class_of[ids]

    def mark(self, arrays: Iterable[Ids | None]) -> Flags:
        """bool[count]: the classes of these elements."""
        flags = np.zeros(self.count, bool)
        for ids in arrays:
            flags[self.classes(ids)] = True
        return flags

    def collect(self) -> ChannelFacts:
        """The facts, with classes in place of elements."""
        t = self.t
        outputs = [*t.outputs, *(selection.elements for selection in t.selections)]
        removable = self.mark(outputs) & self.mark(t.inputs) & ~self.mark(ids for ids, _ in t.fixed)
        axes = {v: tuple(self.class_of[ids] if isinstance(ids, np.ndarray) else None for ids in own)
                for v, own in t.known.items()}  # fmt: skip
        size_updates = tuple(
            replace(update, counts={index: self.class_of[ids] for index, ids in update.counts.items()})
            for update in t.size_updates.values()
        )
        return ChannelFacts(
            self.count, self.groups(removable), tuple(self.fixed(removable)), axes, self.layers, size_updates,
            self.renumbered(t.gathers), self.renumbered(t.shuffles), self.products, self.selections,
            self.renumbered(t.reductions), removable, frozenset(t.static),
        )  # fmt: skip

    def renumbered(self, couplings: Sequence[_Coupling]) -> tuple[_Coupling, ...]:
        """The couplings with classes in place of elements."""
        return tuple(replace(coupling, elements=self.class_of[coupling.elements]) for coupling in couplings)

    def fixed(self, removable: Flags) -> Iterable[FixedLayer]:
        """Layers with fixed outputs, each with the first reason."""
        fixed = self.t.fixed
        reason_of = np.full(self.count, len(fixed), np.int64)
        for index in range(len(fixed) - 1, -1, -1):
            reason_of[self.classes(fixed[index][0])] = index
        for layer in self.t.layers:
            own = self.classes(layer.outputs)
            stay = own[~removable[own]]
            if layer.kind in ("depthwise", "recurrent") or (layer.outputs is not None and not stay.size):
                continue
            first = int(reason_of[stay].min(initial=len(fixed)))
            reason = fixed[first][1] if first < len(fixed) else "no layer reads it"
            if layer.outputs is None:
                yield FixedLayer(layer.node, 1, 1, "it makes a single channel")
            else:
                yield FixedLayer(layer.node, len(stay), len(own), reason)
        for node, reason in self.t.declined:
            if node.op.removeprefix("com.microsoft::") in LAYERS:
                yield FixedLayer(node, 1, 1, reason)

    def groups(self, removable: Flags) -> tuple[ChannelGroup, ...]:
        """Removable classes grouped by the places where they occur, each set of places hashed to a random sum."""
        rng = np.random.default_rng(0)
        signature = np.zeros(self.count, np.uint64)
        for ids in self.places():
            own = self.classes(ids)
            np.add.at(signature, own, rng.integers(1 << 63, dtype=np.uint64))
        wanted = np.flatnonzero(removable)
        if not wanted.size:
            return ()
        _, number = np.unique(signature[wanted], return_inverse=True)
        group_of = np.full(self.count, -1, np.int64)
        group_of[wanted] = self.joined(number, wanted)
        return self.make_groups(group_of)

    def places(self) -> Iterable[Ids]:
        """The axes of constants, the ends of layers, and the sums of products."""
        for value, axes in self.t.known.items():
            if value.constant is not None:
                yield from (ids for ids in axes if isinstance(ids, np.ndarray))
        for layer in self.t.layers:
            yield from (ids for ids in (layer.inputs, layer.outputs) if ids is not None)
        yield from (product.elements for product in self.t.products)

    def joined(self, number: Classes, wanted: Classes) -> Classes:
        """Merge groups that share a partition: the number that each part keeps depends on all of them."""
        import networkx as nx

        group_of = np.full(self.count, -1, np.int64)
        group_of[wanted] = number
        network: nx.Graph[int] = nx.Graph()
        network.add_nodes_from(range(int(number.max()) + 1))
        for partition in self.t.partitions:
            own = np.unique(group_of[self.classes(partition.reshape(-1))])
            own = own[own >= 0]
            network.add_edges_from((int(own[0]), int(other)) for other in own[1:])
        leader = np.zeros(network.number_of_nodes(), np.int64)
        for component in nx.connected_components(network):
            leader[list(component)] = min(component)
        return leader[number]

    def make_groups(self, group_of: Classes) -> tuple[ChannelGroup, ...]:
        """The groups, given the number of each class's group, −1 for none."""
        numbers, first = np.unique(group_of[group_of >= 0], return_index=True)
        order = numbers[np.argsort(first, kind="stable")]  # by the first class, which is about the order of the graph
        place = {int(g): k for k, g in enumerate(order)}
        makers: list[list[WeightedLayer]] = [[] for _ in place]
        readers: list[list[WeightedLayer]] = [[] for _ in place]
        products: list[list[ActivationProduct]] = [[] for _ in place]
        selections: list[list[InputSelection]] = [[] for _ in place]
        partitions: list[list[Classes]] = [[] for _ in place]
        kinds: list[set[str]] = [set() for _ in place]

        def touched(classes: Classes | None) -> list[int]:
            return [] if classes is None else [place[int(g)] for g in np.unique(group_of[classes]) if g >= 0]

        for layer in self.layers:
            for k in touched(layer.outputs):
                makers[k].append(layer)
            for k in touched(layer.inputs) if layer.kind != "depthwise" else ():
                readers[k].append(layer)
        for product in self.products:
            for k in touched(product.elements):
                products[k].append(product)
        for selection in self.selections:
            for k in touched(selection.elements):
                selections[k].append(selection)
        for partition in self.t.partitions:
            for k in touched(self.class_of[partition]):
                partitions[k].append(self.class_of[partition])
        for ids, kind in self.t.approximate:
            for k in touched(self.class_of[ids]):
                kinds[k].add(kind)
        members = np.argsort(group_of, kind="stable")
        bounds = np.searchsorted(group_of[members], [*order, *(order + 1)])
        return tuple(
            ChannelGroup(
                np.sort(members[bounds[k] : bounds[k + len(order)]]), tuple(makers[k]), tuple(readers[k]),
                tuple(products[k]), tuple(partitions[k]), tuple(selections[k]), tuple(sorted(kinds[k])),
            )
            for k in range(len(order))
        )  # fmt: skip
