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

from ...ir import RETURN, Graph, Model, Node, Value
from . import elementwise, joining, linear, reshaping
from .elements import Ids
from .tracker import TRANSFERS, Choice, Linear, Partition, Resize, Shuffle, Tracker, Unclear

_ = (elementwise, joining, linear, reshaping)  # importing them fills the table of transfer functions

Classes = np.ndarray[Any, np.dtype[np.int64]]
"""For each position of an axis its class, int64[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Classes that can be removed, one by one but for partitions, and that the same layers make and read.

    approximate: how what stays is changed by removal, beyond the loss of what goes ("neighbours", "statistics").
    """

    classes: Classes
    makers: tuple[Linear, ...]
    readers: tuple[Linear, ...]
    partitions: tuple[Partition, ...]
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
    removable: np.ndarray[Any, np.dtype[np.bool_]]
    static: frozenset[Value]


def channels(model: Model | Graph) -> Channels:
    """Find the channel groups of a model, nested graphs included. Edits nothing."""
    graph = model.graph if isinstance(model, Model) else model
    tracker = Tracker()
    _walk(tracker, graph)
    return _Facts(tracker).collect()


def _walk(t: Tracker, graph: Graph) -> None:
    for node in (*graph.snapshot(), graph.return_node):
        if node in t.skip:
            continue
        try:
            _step(t, node)
        except Unclear as reason:
            _hold(t, node, f"{elementwise.where(node)}: {reason}")
        for nested in node.subgraphs:
            _walk(t, nested)


def _step(t: Tracker, node: Node) -> None:
    if node.op == RETURN:
        _hold(t, node, "a result of the graph")
        return
    if all(t.is_static(v) for v in node.inputs if v is not None) and node.inputs and not node.subgraphs:
        t.static.update(node.outputs)
    function = TRANSFERS.get(node.op)
    if function is None:
        raise Unclear("how it moves channels is not known")
    function(t, node)


def _hold(t: Tracker, node: Node, reason: str) -> None:
    for value in node.inputs:
        if value is not None and (value in t.known or value.constant is not None):
            t.fix(t.axes(value), reason)
    for out in node.outputs:
        t.fix(t.known.pop(out, ()), reason)


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
        removable = self.mark(t.made) & self.mark(t.read) & ~self.mark(ids for ids, _ in t.blocked)
        groups = self.groups(removable)
        held = tuple(self.held(removable))
        axes = {v: tuple(None if ids is None else self.of[ids] for ids in own) for v, own in t.known.items()}
        for layer in t.linears:
            layer.outputs = None if layer.outputs is None else self.of[layer.outputs]
            layer.inputs = None if layer.inputs is None else self.of[layer.inputs]
        for resize in t.resizes.values():
            resize.counts = {index: self.of[ids] for index, ids in resize.counts.items()}
        for choice in t.choices:
            choice.elements = self.of[choice.elements]
        for shuffle in t.shuffles:
            shuffle.elements = self.of[shuffle.elements]
        return Channels(
            self.count, groups, held, axes, tuple(t.linears), tuple(t.resizes.values()), tuple(t.choices),
            tuple(t.shuffles), removable, frozenset(t.static),
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
            total = len(own) if layer.outputs is not None else 1
            yield Held(layer.node, len(stay) if layer.outputs is not None else 1, total, why)

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
                yield from (ids for ids in axes if ids is not None)
        for layer in self.t.linears:
            yield from (ids for ids in (layer.inputs, layer.outputs) if ids is not None)

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
                tuple(partitions[k]), tuple(sorted(kinds[k])),
            )
            for k in range(len(order))
        )  # fmt: skip
