"""Recovery without training: every layer's weight and bias are refitted, in order, to what the original layer made.

Least squares on calibration data, from the inputs that the pruned and already refitted layers before now give to the
outputs of the original, as far as that predicts rows held back (the reconstruction of He et al. 2017, "Channel Pruning
for Accelerating Very Deep Neural Networks", for all kinds of layers). BatchNormalization is refitted as one scale and
shift a channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ....analysis.channels import ChannelFacts, WeightedLayer, find_channels
from ....calibration import Taps
from ....compress.layers.regression import NormalEquations, fit
from ....compress.layers.rows import (
    check_refittable,
    inputs_at,
    outputs_at,
    sample_positions,
    weight_matrix,
    weight_tensor,
)
from ....compress.layers.weights import dequantize, floats_of, quantized_weight, round_to_codes, shape_of, store_weight
from ....compress.layers.windows import Positions
from ....errors import Declined
from ....ir import Array, Constant, Model, Node, Value
from ....ops import attr
from .frontier import Feeds, Frontier
from .held_out import Judge, inputs_of, restore

RIDGE = 1e-3
"""Default weight of staying near the old weights, as a share of the mean energy of an input."""
_ENOUGH = 4  # rows a weight of an output, with which refits are beyond doubt
_ROWS_PER_UNKNOWN, _MOST_ROWS, _LEAST_ROWS = 6, 40_000, 4_000


@dataclass(frozen=True, slots=True)
class Refit:
    """How well one layer was refitted: the error relative to the output's energy, before and after."""

    node: Node
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Unfitted:
    """A layer that lost inputs and was left as it was, and why."""

    node: Node
    why: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was refitted, in order, what was not, and why all of it was undone, if it was."""

    refits: tuple[Refit, ...] = ()
    unfitted: tuple[Unfitted, ...] = ()
    undone: str = ""


@dataclass(slots=True, eq=False)
class _Site:
    """A layer of the pruned model, its twin in the original, and which of the twin's outputs are left."""

    layer: WeightedLayer
    twin: Node
    left: Array
    places: list[Positions]
    targets: list[Array]


def recover(
    original: Model, pruned: Model, facts: ChannelFacts, feeds: Iterable[Feeds], twins: dict[Node, Node], kept: Array,
    *, ridge: float = RIDGE, seed: int = 0, tell: Callable[[float], None] = lambda share: None,
) -> Recovery:  # fmt: skip
    """Refit the layers of `pruned`, in place. `facts` and `kept` say what was removed from it; `twins` maps its nodes
    to the original's; `feeds` are read several times.

    Where a layer has few rows for its inputs, some samples are kept to judge the outcome: if results on them are worse
    than without, all is undone.
    """
    sites, unfitted = _sites(pruned, facts, twins, kept)
    if not sites:
        return Recovery((), tuple(unfitted))
    _read_targets(original, sites, feeds, seed)
    judge = Judge(original, feeds if any(_is_scarce(site) for site in sites) else ())
    before, errors = inputs_of(pruned), judge.errors(pruned)
    frontier = Frontier(pruned, feeds)
    done: list[Refit] = []
    for number, site in enumerate(sites):
        frontier.advance(site.layer.node)
        done.append(_refit(site, frontier, ridge, judge.apart))
        site.targets.clear()
        tell((number + 1) / len(sites))
    undone = judge.finds_worse(errors, judge.errors(pruned))
    if undone:
        restore(pruned, before)
        done = []
    return Recovery(tuple(done), tuple(unfitted), undone)


def _is_scarce(site: _Site) -> bool:
    rows, shape = sum(map(len, site.places)), shape_of(site.layer)
    return site.layer.kind != "norm" and bool(shape) and rows < _ENOUGH * _unknowns(site.layer, shape)


def _sites(
    pruned: Model, facts: ChannelFacts, twins: dict[Node, Node], kept: Array
) -> tuple[list[_Site], list[Unfitted]]:
    before = {layer.node: layer for layer in facts.layers}
    refused = {}
    layers = {}
    for layer in find_channels(pruned).layers:
        old = before.get(layer.node)
        if old is None:
            continue
        try:
            check_refittable(layer)
            layers[layer.node] = layer
        except Declined as declined:
            if old.inputs is not None and not kept[old.inputs].all():
                refused[layer.node] = declined.reason
    for node in pruned.graph:
        if node.op == "BatchNormalization" and _is_plain_norm(node):
            classes = facts.axes[node.output][1]
            layers[node] = WeightedLayer(node, node.inputs[1], "norm", 1, 0, None, classes, classes)  # type: ignore[arg-type]
            before[node] = layers[node]
    drifted: set[Value] = set()
    sites: list[_Site] = []
    for node in pruned.graph:
        own = layers.get(node)
        read = any(v in drifted for v in node.inputs)
        old = before.get(node)
        cut = old is not None and old.inputs is not None and not kept[old.inputs].all()
        if read or cut or node.subgraphs:
            drifted.update(node.outputs)
        if own is None or old is None or not (read or cut):
            continue
        width = old.outputs
        left = slice(None) if width is None else np.flatnonzero(kept[width])
        sites.append(_Site(own, twins[node], left, [], []))  # type: ignore[arg-type]
    return sites, [Unfitted(node, why) for node, why in refused.items()]


def _is_plain_norm(node: Node) -> bool:
    return all(v is not None and v.constant is not None and v.has_one_use for v in node.inputs[1:3])


def _read_targets(original: Model, sites: list[_Site], feeds: Iterable[Feeds], seed: int) -> None:
    """Sample what the original layers make; a place is a position of an output on one sample."""
    rng = np.random.default_rng(seed)
    samples = sum(1 for _ in feeds)
    taps = Taps(original, [site.twin.output for site in sites])
    for feed in feeds:
        values = taps.run(feed)
        for site in sites:
            y = values[site.twin.output]
            count = -(-_wanted_rows(site.layer) // samples)
            places = sample_positions(site.layer, y.shape, count, rng)
            site.places.append(places)
            site.targets.append(outputs_at(site.layer, y, places)[:, site.left])


def _wanted_rows(layer: WeightedLayer) -> int:
    unknowns = _unknowns(layer, shape_of(layer) or (1,))
    return min(_MOST_ROWS, max(_LEAST_ROWS, _ROWS_PER_UNKNOWN * unknowns))


def _unknowns(layer: WeightedLayer, shape: tuple[int, ...]) -> int:
    """Weights of one output."""
    if layer.node.op == "ConvTranspose":
        return math.prod(shape[2:]) * shape[0] // layer.groups
    return math.prod(shape[1:]) if layer.node.op == "Conv" else shape[layer.in_axis or 0]


def _refit(site: _Site, frontier: Frontier, ridge: float, apart: frozenset[int]) -> Refit:
    if site.layer.kind == "norm":
        return _refit_norm(site, frontier)
    layer, node = site.layer, site.layer.node
    weight = floats_of(layer)
    assert weight is not None
    matrix = weight_matrix(layer, weight)
    holder, slot = _bias_place(node)
    outputs = matrix.shape[0] * matrix.shape[2]
    bias = _bias(holder, slot, outputs) if holder is node else np.zeros(outputs)
    seen, held = (NormalEquations(matrix.shape[0], matrix.shape[1], outputs) for _ in range(2))
    data = node.inputs[0]
    assert data is not None
    for number, (x, places, y) in enumerate(zip(frontier.values(data), site.places, site.targets)):
        if number in apart:
            continue
        rows, back = inputs_at(layer, x, places), _held(number, len(places), len(site.targets))
        seen.add(rows[~back], y[~back])
        held.add(rows[back], y[back])
    start = bias.reshape(matrix.shape[0], -1)
    found = fit(seen, held, matrix, start, ridge, holder is not None)
    moments = seen.joined(held)
    before = moments.error(matrix, start)
    if found is None:
        return Refit(node, before, before)
    made, shift = found
    tensor = weight_tensor(layer, made, weight.shape)
    form = None if layer.weight.constant is not None else quantized_weight(layer)
    if form is not None:  # rounding may cost more than the refit gains
        codes, scale = round_to_codes(form, tensor)
        tensor = dequantize(form, codes, scale)
    after = moments.error(weight_matrix(layer, tensor), shift)
    if after >= before:
        return Refit(node, before, before)
    store_weight(layer, tensor)
    if holder is not None:
        whole = shift.reshape(-1) + (0 if holder is node else _bias(holder, slot, outputs))
        _set_bias(holder, slot, whole.astype(np.float32 if form is not None else weight.dtype))
    return Refit(node, before, after)


def _held(sample: int, rows: int, samples: int) -> Array:
    """Which rows of a sample are held back: all of every fifth sample, or every fifth row where samples are few."""
    return np.full(rows, sample % 5 == 4) if samples >= 10 else np.arange(rows) % 5 == 4


def _bias_place(node: Node) -> tuple[Node | None, int]:
    """Where a layer's bias is: its own third input, or the constant that the only reader of a MatMul adds."""
    if node.op in ("Conv", "ConvTranspose", "Gemm"):
        value = node.input(2)
        if value is None:
            return node, 2
        flat = value.constant is not None and sum(size > 1 for size in value.constant.shape) <= 1
        return (node, 2) if flat else (None, 0)
    use = node.output.uses[0] if node.output.has_one_use else None
    if use is not None and use.node.op == "Add" and use.node.graph is node.graph:
        other = use.node.inputs[1 - use.slot]
        if other is not None and other.constant is not None and len(other.constant.shape) == 1:
            return use.node, 1 - use.slot
    return None, 0


def _bias(holder: Node | None, slot: int, outputs: int) -> Array:
    value = None if holder is None else holder.input(slot)
    if value is None or value.constant is None:
        return np.zeros(outputs)
    return np.broadcast_to(value.constant.array().reshape(-1).astype(np.float64), (outputs,))


def _set_bias(holder: Node, slot: int, bias: Array) -> None:
    graph = holder.graph
    assert graph is not None
    old = holder.input(slot)
    made = Value(name=old.name if old is not None else "", constant=Constant.of(bias))
    inputs = [*holder.inputs, *([None] * (slot + 1 - len(holder.inputs)))]
    inputs[slot] = made
    graph.set_inputs(holder, inputs)


def _refit_norm(site: _Site, frontier: Frontier) -> Refit:
    """y ≈ a x + b for each channel, written as the scale and shift of the BatchNormalization."""
    node = site.layer.node
    data = node.inputs[0]
    assert data is not None
    x = np.concatenate([inputs_at(site.layer, v, p)[:, :, 0] for v, p in zip(frontier.values(data), site.places)])
    y = np.concatenate(site.targets)
    scale, shift, mean, variance = (v.constant.array().astype(np.float64) for v in node.inputs[1:5])  # type: ignore[union-attr]
    deviation = np.sqrt(variance + float(attr(node, "epsilon", 1e-5)))
    now = (x - mean) / deviation * scale + shift
    spread = np.var(now, axis=0)
    ratio = np.divide(np.std(y, axis=0), np.sqrt(spread), out=np.ones_like(spread), where=spread > 1e-12)
    ratio = np.clip(ratio, 0.5, 2.0)
    offset = y.mean(axis=0) - ratio * now.mean(axis=0)
    energy = max(float(np.square(y).sum()), 1e-30)
    before = float(np.square(y - now).sum()) / energy
    after = float(np.square(y - (ratio * now + offset)).sum()) / energy
    if not after < before:
        return Refit(node, before, before)
    graph = node.graph
    assert graph is not None
    for slot, array in ((1, ratio * scale), (2, ratio * shift + offset)):
        old = node.inputs[slot]
        assert old is not None and old.constant is not None
        made = Constant.of(array.astype(old.constant.array().dtype))
        graph.set_input(node, slot, Value(name=old.name, constant=made))
    return Refit(node, before, after)
