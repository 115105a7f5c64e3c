"""The structure of decisions in a model: layers, ties between them, channel groups, and edges with their elements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ..analysis.channels import ChannelFacts, ChannelGroup, find_channels
from ..calibration import shapes_at
from ..compress.choices import branch_name, layer_names
from ..equivalence.feeds import Feeds
from ..errors import Declined, GraphoptError
from ..ir import Array, Graph, Model, Node, TensorType, Value, clone_model
from ..machine.cpu import host_cpu
from ..passes.prune import Prune
from ..passes.prune.cut.remove import unshare
from ..passes.prune.score.gradients import gradient_scores
from ..passes.prune.score.measured import measured_scores
from ..passes.prune.select.allocation import check_prunable, names_of
from ..passes.prune.select.selection import positions_per_class, rounded_width

SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
"""Shares of a group's channels that may be removed: eighths, since widths are rounded to a tile; beyond three quarters
a layer loses its function. A choice."""
TILES = {True: 16, False: 8}
"""Channels of a block in onnxruntime's layout of convolutions, with AVX-512 and without (MlasNchwcGetBlockSize)."""
_SAMPLES, _FEW = 16, 4
"""Samples for scoring channels, with ample and with little time: only order and sum of a group's scores matter."""
ADAPTED = 0.3
"""The share of an error left after the next layers have adapted, where unmeasured: a guess that every narrowed model
corrects."""


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are removed together. name: of a layer that produces them, the key in recipes. size: channels.
    widths: the numbers of channels to keep, all of them first. losses: the predicted noise of each width, as a share of
    the results' power.
    """

    name: str
    size: int
    widths: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights. parameters: elements of its constants. reads, writes: the numbers of the groups of its
    input's and its output's channels, −1 for none. tied: the index of the first layer that must have the same
    precision. followers: the names of weightless nodes after it, up to the next layers, whose time depends on the same
    decisions.
    """

    name: str
    parameters: int
    reads: int = -1
    writes: int = -1
    tied: int = -1
    followers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Structure:
    """The layers of a model in order, its groups, and its edges (writer, reader, elements)."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    edges: tuple[tuple[int, int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Structure:
        """The structure of `to_dict`."""
        groups = (Group(g["name"], g["size"], tuple(g["widths"]), tuple(g["losses"])) for g in data["groups"])
        layers = (Layer(**{**layer, "followers": tuple(layer["followers"])}) for layer in data["layers"])
        return cls(tuple(layers), tuple(groups), tuple((a, b, n) for a, b, n in data["edges"]))

    def without_groups(self) -> Structure:
        """The structure with all channels fixed."""
        layers = (replace(layer, reads=-1, writes=-1) for layer in self.layers)
        return Structure(tuple(layers), (), self.edges)

    def widths(self, share: float) -> dict[str, int]:
        """The widths of all groups when about this share of their channels is removed."""
        wanted = {g.name: g.size * (1 - share) for g in self.groups}
        return {g.name: min(g.widths, key=lambda w: abs(w - wanted[g.name])) for g in self.groups}


def structure_of(
    model: Model, feeds: Sequence[Feeds], seed: int, *, channels: bool = True, quick: bool = False
) -> Structure:
    """The structure of the exact passes' result. channels: whether any may be removed. quick: channels are scored on
    fewer samples, and without the inverse of a layer's second moments."""
    copy = clone_model(model)
    unshare(copy)
    facts = find_channels(copy)
    names = names_in(copy)
    chosen = [group for group in _prunable(facts) if not _in_branches(group, facts, copy)] if channels else []
    scores = _scores(copy, facts, feeds[:_SAMPLES], seed, quick) if chosen else (np.zeros(0), np.zeros(0))
    groups = tuple(_group(group, *scores) for group in chosen)
    found = {layer.node: layer for layer in facts.layers if layer.node in names}
    weighted = [node for node in names if node in found or _holds_weight(node)]
    number = {node: place for place, node in enumerate(weighted)}
    tied, edges, followers = _joined(copy, number, names, feeds[0])
    layers = []
    for node, place in number.items():
        own = found.get(node)
        ends = (None, None) if own is None else (own.inputs, own.outputs)
        reads, writes = (_group_of(classes, chosen) for classes in ends)
        layers.append(Layer(names[node], _parameters(node), reads, writes, tied[place], tuple(followers[place])))
    return Structure(tuple(layers), groups, tuple(edges))


def _prunable(facts: ChannelFacts) -> list[ChannelGroup]:
    chosen = []
    for group in facts.groups:
        try:
            check_prunable(group, Prune())
        except Declined:
            continue
        if names_of(group):
            chosen.append(group)
    return chosen


def _in_branches(group: ChannelGroup, facts: ChannelFacts, model: Model) -> bool:
    """Whether a layer in a branch reads or produces channels of a group: samples may not take the branch, and names of
    its layers may not be unique."""
    nested = [layer for layer in facts.layers if layer.node.graph is not model.graph]
    ends = [classes for layer in nested for classes in (layer.inputs, layer.outputs) if classes is not None]
    return any(np.isin(classes, group.classes).any() for classes in ends)


def _scores(model: Model, facts: ChannelFacts, feeds: Sequence[Feeds], seed: int, quick: bool) -> tuple[Array, Array]:
    """f64[classes] twice: the noise of the results when each class is removed, to first order; and the score by which
    classes are ranked in their group, the error left after the layers that read them have adapted. The noise is scaled
    by the share of these layers' error that adapting leaves; `quick`: by `ADAPTED`, which measurements correct."""
    feeds = feeds[:_FEW] if quick else feeds
    removed = measured_scores(model, facts, "reconstruction", feeds, seed)
    adapted = ADAPTED * removed if quick else measured_scores(model, facts, "hessian", feeds, seed)
    try:
        noise = gradient_scores(model, facts, "fisher", feeds, seed)
    except GraphoptError:
        return adapted, adapted
    return noise * np.clip(adapted / np.maximum(removed, 1e-30), 0.0, 1.0), adapted


def _group(group: ChannelGroup, noise: Array, rank: Array) -> Group:
    each = positions_per_class(group)
    tile = TILES["avx512f" in host_cpu()[1]]
    asked = [group.size, *(rounded_width(group, group.size * (1 - share), tile) for share in SHARES)]
    classes = list(dict.fromkeys(asked))
    worst_first = noise[group.classes][np.argsort(rank[group.classes], kind="stable")]
    losses = [float(worst_first[: group.size - count].sum()) for count in classes]
    return Group(names_of(group)[0], group.size * each, tuple(c * each for c in classes), tuple(losses))


def _group_of(classes: Array | None, groups: Sequence[ChannelGroup]) -> int:
    if classes is None:
        return -1
    here = {int(c) for c in np.unique(classes)}
    return next((k for k, group in enumerate(groups) if int(group.classes[0]) in here), -1)


def _holds_weight(node: Node) -> bool:
    return any(v is not None and v.constant is not None and len(v.constant.shape) > 1 for v in node.inputs)


def _parameters(node: Node) -> int:
    return sum(math.prod(v.constant.shape) for v in node.inputs if v is not None and v.constant is not None)


def _joined(
    model: Model, number: Mapping[Node, int], names: Mapping[Node, str], feed: Feeds
) -> tuple[list[int], list[tuple[int, int, int]], list[list[str]]]:
    """For each layer the first layer tied to it; the edges between layers, with their elements; and each layer's
    followers, the weightless nodes of which it is the last layer before.

    Layers whose results meet in a Concat may share its scale, and are quantized together or not at all. Nothing else in
    the quantizer ties layers: Add and Mul read each operand at its own scale, and MaxPool and similar operators pass on
    the codes of one layer.
    """
    sources: dict[Value, frozenset[int]] = {}
    tied = list(range(len(number)))
    edges: dict[tuple[int, int], Value] = {}
    followers: list[list[str]] = [[] for _ in number]
    for node in (*model.graph, *branch_labels(model)):
        read = [(value, sources.get(value, frozenset())) for value in node.inputs if value is not None]
        own = number.get(node)
        if own is not None:
            for value, before in read:
                edges.update({(writer, own): value for writer in before if writer != own})
            made = frozenset((own,))
        else:
            made = frozenset().union(*(before for _, before in read)) if read else frozenset()
            if made:
                followers[max(made)].append(names[node])
            if node.op == "Concat" and made:
                first = min(tied[k] for k in made)
                roots = {tied[k] for k in made}
                tied = [first if root in roots else root for root in tied]
        sources.update(dict.fromkeys(node.outputs, made))
    root = {value for node in model.graph for value in node.outputs}
    shapes = shapes_at(model, [value for value in edges.values() if value in root], feed)
    handed = [(a, b, math.prod(shapes.get(value) or _declared(value))) for (a, b), value in edges.items()]
    return tied, handed, followers


def _declared(value: Value) -> list[int]:
    """The declared sizes of a value in a branch, which cannot be observed from outside."""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return [size for size in shape or () if isinstance(size, int)]


def branch_labels(model: Model) -> dict[Node, str]:
    """The prefix of recipe names for nodes in branches of the root graph's Ifs."""
    labels = {}
    for node in model.graph:
        for slot in ("then_branch", "else_branch") if node.op == "If" else ():
            branch = node.attrs.get(slot)
            if isinstance(branch, Graph):
                labels.update(dict.fromkeys(branch, f"{branch_name(node, slot)}: "))
    return labels


def names_in(model: Model) -> dict[Node, str]:
    """The recipe names of nodes in the root graph and in branches of its Ifs."""
    names, labels = layer_names(model.graph), branch_labels(model)
    for label in dict.fromkeys(labels.values()):
        inside = layer_names(node for node, own in labels.items() if own == label)
        names.update((node, label + name) for node, name in inside.items())
    return names


def names_of_nodes(nodes: Iterable[Node], labels: Mapping[Node, str] = MappingProxyType({})) -> set[str]:
    """Every name by which a recipe may refer to one of the nodes. labels: prefixes of nodes in branches."""
    return {
        labels.get(node, "") + name
        for node in nodes
        for name in (node.name, *(v.name for v in node.outputs), *node.origins)
        if name
    }
