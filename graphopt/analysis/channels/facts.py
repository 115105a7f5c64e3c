"""Channel groups: which positions of which axes are removed together, in any graph.

Every axis of every value carries one element a position. Operators make elements equal, move them, or hold them; a
class is a set of elements that are kept or removed together, and a group the classes that the same weights hold, which
are ranked against each other. Linear in the nodes and in the sizes of axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import RETURN, Graph, Model, Node, Value
from . import counting, elementwise, joining, linear, quantized, reshaping
from .couplings import Choice, Linear, Partition, Product, Resize, Selection, Shuffle, Statistic
from .elements import Ids
from .tracker import TRANSFERS, Tracker

_ = (elementwise, joining, linear, quantized, reshaping)  # importing them fills the table of transfer functions

LAYERS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
)  # fmt: skip
"""Operators with weights that have channels."""

_LEAST = 8
"""Inputs of which a selection is worth a Gather."""

Classes = np.ndarray[Any, np.dtype[np.int64]]
"""For each position of an axis its class, int64[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Classes that can be removed, one by one but for partitions, and that the same layers make and read.

    products: MatMuls of two computed values that sum over the classes. selections: layers that would read fewer of
    channels that stay; then nothing makes the classes.
    approximate: how what stays is changed by removal, beyond the loss of what goes ("neighbours", "statistics").
    """

    classes: Classes
    makers: tuple[Linear, ...]
    readers: tuple[Linear, ...]
    products: tuple[Product, ...]
    partitions: tuple[Partition, ...]
    selections: tuple[Selection, ...]
    approximate: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of classes."""
        return len(self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Channels that a layer makes and that stay: how many, and why."""

    node: Node
    channels: int
    of: int
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The facts. All element arrays hold classes, numbered 0 to `count` − 1."""

    count: int
    groups: tuple[Group, ...]
    held: tuple[Held, ...]
    axes: dict[Value, tuple[Classes | None, ...]]
    linears: tuple[Linear, ...]
    resizes: tuple[Resize, ...]
    choices: tuple[Choice, ...]
    shuffles: tuple[Shuffle, ...]
    products: tuple[Product, ...]
    selections: tuple[Selection, ...]
    statistics: tuple[Statistic, ...]
    removable: np.ndarray[Any, np.dtype[np.bool_]]
    static: frozenset[Value]


def channels(model: Model | Graph) -> Channels:
    """Find the channel groups of a model, nested graphs included. Edits nothing."""
    graph = model.graph if isinstance(model, Model) else model
    facts = _channels(graph, frozenset())
    apart = frozenset(_untouched(facts))
    return _channels(graph, apart) if apart else facts


def _channels(graph: Graph, selected: frozenset[Node]) -> Channels:
    tracker = Tracker(selected)
    _walk(tracker, graph)
    tracker.settle_pinned()
    return _Facts(tracker).collect()


def _untouched(facts: Channels) -> Iterable[Node]:
    """Layers all of whose channels stay: they may still read a selection of their inputs."""
    for layer in facts.linears:
        ends = [classes for classes in (layer.inputs, layer.outputs) if classes is not None]
        if layer.kind != "dense" or any(facts.removable[classes].any() for classes in ends):
            continue
        if layer.inputs is not None and len(layer.inputs) >= _LEAST:
            yield layer.node


def _walk(t: Tracker, graph: Graph) -> None:
    for node in (*graph.snapshot(), graph.return_node):
        if node in t.skip:
            continue
        t.at = elementwise.where(node) if node.outputs else node.op
        try:
            _step(t, node)
        except Declined as reason:
            _hold(t, node, f"{t.at}: {reason}")
            t.unclear.append((node, f"{t.at}: {reason}"))
        for nested in node.subgraphs:
            _walk(t, nested)


def _step(t: Tracker, node: Node) -> None:
    if node.op == RETURN:
        _hold(t, node, "a result of the graph")
        return
    if all(t.is_static(v) for v in node.inputs if v is not None) and node.inputs and not node.subgraphs:
        t.static.update(node.outputs)
    if counting.follow(t, node):
        return
    function = TRANSFERS.get(node.op)
    if function is None:
        raise Declined("how it moves channels is not known")
    function(t, node)


def _hold(t: Tracker, node: Node, reason: str) -> None:
    for value in node.inputs:
        if value is not None and (value in t.known or value.constant is not None):
            t.fix(t.axes(value), reason)
        if value is not None:
            counting.hold(t, value, reason)
    for out in node.outputs:
        t.fix([None if axis is None else t.ids_of(axis) for axis in t.known.pop(out, ())], reason)
        t.vectors.pop(out, None)


class _Facts:
    def __init__(self, t: Tracker) -> None:
        self.t = t
        roots = t.elements.roots()
        _, self.of = np.unique(roots, return_inverse=True)
        self.count = int(self.of.max(initial=-1)) + 1

    def classes(self, ids: Ids | None) -> Classes:
        return self.of[ids] if ids is not None else self.of[:0]

    def mark(self, arrays: Iterable[Ids | None]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        found = np.zeros(self.count, bool)
        for ids in arrays:
            found[self.classes(ids)] = True
        return found

    def collect(self) -> Channels:
        t = self.t
        made = [*t.made, *(selection.elements for selection in t.selections)]
        removable = self.mark(made) & self.mark(t.read) & ~self.mark(ids for ids, _ in t.blocked)
        groups = self.groups(removable)
        held = tuple(self.held(removable))
        axes = {v: tuple(self.of[ids] if isinstance(ids, np.ndarray) else None for ids in own)
                for v, own in t.known.items()}  # fmt: skip
        for layer in t.linears:
            layer.outputs = None if layer.outputs is None else self.of[layer.outputs]
            layer.inputs = None if layer.inputs is None else self.of[layer.inputs]
        for resize in t.resizes.values():
            resize.counts = {index: self.of[ids] for index, ids in resize.counts.items()}
        for choice in t.choices:
            choice.elements = self.of[choice.elements]
        held_apart = (t.shuffles, t.products, t.selections, t.statistics)
        for holder in (one for kind in held_apart for one in kind):
            holder.elements = self.of[holder.elements]
        return Channels(
            self.count, groups, held, axes, tuple(t.linears), tuple(t.resizes.values()), tuple(t.choices),
            tuple(t.shuffles), tuple(t.products), tuple(t.selections), tuple(t.statistics), removable,
            frozenset(t.static),
        )  # fmt: skip

    def held(self, removable: np.ndarray[Any, np.dtype[np.bool_]]) -> Iterable[Held]:
        reason = np.full(self.count, len(self.t.blocked), np.int64)
        for index in range(len(self.t.blocked) - 1, -1, -1):
            reason[self.classes(self.t.blocked[index][0])] = index
        for layer in self.t.linears:
            own = self.classes(layer.outputs)
            stay = own[~removable[own]]
            if layer.kind in ("depthwise", "recurrent") or (layer.outputs is not None and not stay.size):
                continue
            first = int(reason[stay].min(initial=len(self.t.blocked)))
            why = self.t.blocked[first][1] if first < len(self.t.blocked) else "no layer reads it"
            why = why if layer.outputs is not None else "it makes a single channel"
            total = len(own) if layer.outputs is not None else 1
            yield Held(layer.node, len(stay) if layer.outputs is not None else 1, total, why)
        for node, why in self.t.unclear:
            if node.op.removeprefix("com.microsoft::") in LAYERS:
                yield Held(node, 1, 1, why)

    def groups(self, removable: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[Group, ...]:
        """Classes by what holds them: the sum of one random number for each place says which they are."""
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
        for value, axes in self.t.known.items():
            if value.constant is not None:
                yield from (ids for ids in axes if isinstance(ids, np.ndarray))
        for layer in self.t.linears:
            yield from (ids for ids in (layer.inputs, layer.outputs) if ids is not None)
        yield from (product.elements for product in self.t.products)

    def joined(self, number: Classes, wanted: Classes) -> Classes:
        """Groups that a partition spans become one: how many each part keeps depends on all of them."""
        import networkx as nx

        group_of = np.full(self.count, -1, np.int64)
        group_of[wanted] = number
        network: nx.Graph[int] = nx.Graph()
        network.add_nodes_from(range(int(number.max()) + 1))
        for partition in self.t.partitions:
            own = np.unique(group_of[self.classes(partition.parts.reshape(-1))])
            own = own[own >= 0]
            network.add_edges_from((int(own[0]), int(other)) for other in own[1:])
        leader = np.zeros(network.number_of_nodes(), np.int64)
        for component in nx.connected_components(network):
            leader[list(component)] = min(component)
        return leader[number]

    def make_groups(self, group_of: Classes) -> tuple[Group, ...]:
        ids, first = np.unique(group_of[group_of >= 0], return_index=True)
        order = ids[np.argsort(first, kind="stable")]  # by the first class, which is about the order of the graph
        place = {int(g): k for k, g in enumerate(order)}
        makers: list[list[Linear]] = [[] for _ in place]
        readers: list[list[Linear]] = [[] for _ in place]
        products: list[list[Product]] = [[] for _ in place]
        selections: list[list[Selection]] = [[] for _ in place]
        partitions: list[list[Partition]] = [[] for _ in place]
        kinds: list[set[str]] = [set() for _ in place]

        def touched(ids: Ids | None) -> list[int]:
            found = np.unique(group_of[self.classes(ids)])
            return [place[int(g)] for g in found if g >= 0]

        for layer in self.t.linears:
            for k in touched(layer.outputs):
                makers[k].append(layer)
            for k in touched(layer.inputs) if layer.kind != "depthwise" else ():
                readers[k].append(layer)
        for product in self.t.products:
            for k in touched(product.elements):
                products[k].append(product)
        for selection in self.t.selections:
            for k in touched(selection.elements):
                selections[k].append(selection)
        for partition in self.t.partitions:
            for k in touched(partition.parts.reshape(-1)):
                partitions[k].append(Partition(partition.node, self.of[partition.parts]))
        for approximated, kind in self.t.approximate:
            for k in touched(approximated):
                kinds[k].add(kind)
        members = np.argsort(group_of, kind="stable")
        bounds = np.searchsorted(group_of[members], [*order, *(order + 1)])
        return tuple(
            Group(
                np.sort(members[bounds[k] : bounds[k + len(order)]]), tuple(makers[k]), tuple(readers[k]),
                tuple(products[k]), tuple(partitions[k]), tuple(selections[k]), tuple(sorted(kinds[k])),
            )
            for k in range(len(order))
        )  # fmt: skip
