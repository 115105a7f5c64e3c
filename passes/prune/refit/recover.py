"""Recovery without training: weights and biases are refitted, in order, to the outputs of the original layers.

Least squares on calibration data, from the inputs that the pruned and already refitted layers before it yield to the
outputs of the original, as far as that predicts held-out rows (the reconstruction of He et al. 2017, "Channel Pruning
for Accelerating Very Deep Neural Networks", for all kinds of layers). BatchNormalization is refitted as one scale and
shift a channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ....analysis.channels import ChannelFacts, WeightedLayer, find_channels
from ....calibration import Taps
from ....compress.frontier import Frontier
from ....compress.layers.regression import NormalEquations, fit
from ....compress.layers.rows import (
    check_refittable,
    check_same_sizes,
    inputs_at,
    outputs_at,
    sample_positions,
    weight_matrix,
    weight_tensor,
)
from ....compress.layers.weights import dequantize, floats_of, quantized_weight, round_to_codes, shape_of, store_weight
from ....compress.layers.windows import Positions
from ....equivalence.feeds import Feeds
from ....errors import Declined
from ....ir import Array, Constant, Model, Node, Value
from ....ops import attr
from ..options import RIDGE
from .held_out import HeldOutError, inputs_of, restore

_ENOUGH = 4
"""Rows per weight of an output below which a refit may overfit, so that samples are held out to judge it. A choice,
made when refits of minilm-int8 on twelve random texts raised the error from 0.18 to 0.24 of the results' energy."""
_ROWS_PER_UNKNOWN, _MOST_ROWS, _LEAST_ROWS = 6, 40_000, 4_000
"""Rows for refitting a layer: per weight of an output, at most and at least; a choice between overfitting and time.
`python -m tests.bench.prune_fashion` shows the accuracy, `tests.bench.prune_speed time` the seconds."""
_ROUGH_ROWS = 2
"""Rows per weight on made-up inputs, whose moments differ from the data's anyway: enough to keep the equations
regular."""
_NORM_SCALE = 2.0
"""The largest factor, and its inverse, on the scale of a BatchNormalization: more would amplify noise. Reasoned, not
tuned: folding leaves few BatchNormalizations to refit."""
_FOLDS, _MANY_SAMPLES = 5, 10
"""Every fifth sample is held out of a layer's fit, or every fifth row where samples are few: 5-fold cross-validation's
share. A convention, not tuned."""


@dataclass(frozen=True, slots=True)
class Refit:
    """A refitted layer: its error relative to the energy of its output, before and after."""

    node: Node
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Unfitted:
    """A layer that lost inputs and was not refitted, and the reason."""

    node: Node
    reason: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """The refitted layers, in order, the layers not refitted, and why all refits were undone, "" where kept."""

    refits: tuple[Refit, ...] = ()
    unfitted: tuple[Unfitted, ...] = ()
    undone: str = ""


@dataclass(slots=True, eq=False)
class _Target:
    """A layer to refit: the original node, its remaining outputs, and their shapes and values at sampled positions."""

    layer: WeightedLayer
    original: Node
    remaining: Array | slice
    positions: list[Positions]
    shapes: list[tuple[int, ...]]
    outputs: list[Array]


def recover(
    original: Model, pruned: Model, facts: ChannelFacts, feeds: Iterable[Feeds], originals: dict[Node, Node],
    kept: Array, *, ridge: float = RIDGE, seed: int = 0, is_rough: bool = False,
    alive: dict[Node, Array] | None = None, held_out: HeldOutError | None = None,
) -> Recovery:  # fmt: skip
    """Refit the layers of `pruned`, in place. `facts` and `kept`: the channels and those kept; `originals` maps its
    nodes to the original's; `feeds` are read several times. alive: for each node the original's channels left by
    earlier steps; updated.

    Where a layer has few rows for its inputs, some samples are held out: if results on them are worse than without
    refits, all refits are undone; `held_out`: other samples to hold out in any case. is_rough: the feeds are made up,
    for which fewer rows and one ridge suffice.
    """
    alive = {} if alive is None else alive
    _survive(pruned, facts, kept, alive)
    targets, unfitted = _targets(pruned, facts, originals, kept, alive)
    if not targets:
        return Recovery((), tuple(unfitted))
    _read_outputs(original, targets, feeds, seed, _ROUGH_ROWS if is_rough else _ROWS_PER_UNKNOWN)
    is_judged = not is_rough and any(_is_scarce(target) for target in targets)
    held_out = held_out or HeldOutError(original, feeds if is_judged else ())
    inputs = inputs_of(pruned) if held_out.samples else {}  # which hold the weights before
    before = held_out.errors(pruned)
    frontier = Frontier(pruned, feeds)
    refits: list[Refit] = []
    for target in targets:
        frontier.advance(target.layer.node)
        try:
            refits.append(_refit(target, frontier, ridge, held_out.samples, is_rough))
        except Declined as reason:
            unfitted.append(Unfitted(target.layer.node, reason.reason))
        target.outputs.clear()
    undone = held_out.why_worse(before, held_out.errors(pruned))
    if undone:
        restore(pruned, inputs)
        refits = []
    return Recovery(tuple(refits), tuple(unfitted), undone)


def _is_scarce(target: _Target) -> bool:
    rows, shape = sum(map(len, target.positions)), shape_of(target.layer)
    return target.layer.kind != "norm" and bool(shape) and rows < _ENOUGH * _unknowns(target.layer, shape)


def _survive(pruned: Model, facts: ChannelFacts, kept: Array, alive: dict[Node, Array]) -> None:
    """Update, for each layer, which of the original's channels its outputs still are after this step."""
    classes = {layer.node: layer.outputs for layer in facts.layers if layer.outputs is not None}
    for node in pruned.graph:
        found = facts.axes[node.output][1] if node.op == "BatchNormalization" and node.output in facts.axes else None
        if found is not None:
            classes[node] = found
    for node, outputs in classes.items():
        now = np.flatnonzero(kept[outputs])
        alive[node] = alive[node][now] if node in alive else now


def _targets(
    pruned: Model, facts: ChannelFacts, originals: dict[Node, Node], kept: Array, alive: dict[Node, Array]
) -> tuple[list[_Target], list[Unfitted]]:
    """The layers whose inputs changed, in order, and those of them that cannot be refitted."""
    before = {layer.node: layer for layer in facts.layers}
    declined: dict[Node, str] = {}
    layers: dict[Node, WeightedLayer] = {}
    for layer in find_channels(pruned).layers:
        old = before.get(layer.node)
        if old is None:
            continue
        try:
            check_refittable(layer)
            layers[layer.node] = layer
        except Declined as reason:
            if _lost_inputs(old, kept):
                declined[layer.node] = reason.reason
    for node in pruned.graph:
        if node.op == "BatchNormalization" and _is_plain_norm(node):
            classes = facts.axes[node.output][1]
            layers[node] = WeightedLayer(node, node.inputs[1], "norm", 1, 0, None, classes, classes)  # type: ignore[arg-type]
            before[node] = layers[node]
    changed: set[Value] = set()
    targets: list[_Target] = []
    for node in pruned.graph:
        layer_now, old = layers.get(node), before.get(node)
        is_changed = any(v in changed for v in node.inputs) or (old is not None and _lost_inputs(old, kept))
        if is_changed or node.subgraphs:
            changed.update(node.outputs)
        if layer_now is None or old is None or not is_changed:
            continue
        targets.append(_Target(layer_now, originals[node], alive.get(node, slice(None)), [], [], []))
    return targets, [Unfitted(node, reason) for node, reason in declined.items()]


def _lost_inputs(layer: WeightedLayer, kept: Array) -> bool:
    return layer.inputs is not None and not kept[layer.inputs].all()


def _is_plain_norm(node: Node) -> bool:
    return all(v is not None and v.constant is not None and v.has_one_use for v in node.inputs[1:3])


def _read_outputs(original: Model, targets: list[_Target], feeds: Iterable[Feeds], seed: int, per_unknown: int) -> None:
    """Sample the outputs of the original layers, at some positions of each sample."""
    rng = np.random.default_rng(seed)
    samples = sum(1 for _ in feeds)
    taps = Taps(original, [target.original.output for target in targets])
    for feed in feeds:
        values = taps.run(feed)
        for target in targets:
            y = values[target.original.output]
            positions = sample_positions(
                target.layer, y.shape, -(-_wanted_rows(target.layer, per_unknown) // samples), rng
            )
            target.positions.append(positions)
            target.shapes.append(y.shape)
            target.outputs.append(outputs_at(target.layer, y, positions)[:, target.remaining])


def _wanted_rows(layer: WeightedLayer, per_unknown: int) -> int:
    unknowns = _unknowns(layer, shape_of(layer) or (1,))
    return min(_MOST_ROWS, max(_LEAST_ROWS * per_unknown // _ROWS_PER_UNKNOWN, per_unknown * unknowns))


def _unknowns(layer: WeightedLayer, shape: tuple[int, ...]) -> int:
    """Weights of one output channel."""
    if layer.node.op == "ConvTranspose":
        return math.prod(shape[2:]) * shape[0] // layer.groups
    return math.prod(shape[1:]) if layer.node.op == "Conv" else shape[layer.in_axis or 0]


def _refit(target: _Target, frontier: Frontier, ridge: float, held_out: frozenset[int], is_rough: bool) -> Refit:
    """The layer refitted. Declined where its input has other sizes than the original's."""
    read = target.layer.node.inputs[0]
    assert read is not None
    for x, shape in zip(frontier.values(read), target.shapes):
        check_same_sizes(target.layer, x, shape)
    if target.layer.kind == "norm":
        return _refit_norm(target, frontier)
    layer, node = target.layer, target.layer.node
    weight = floats_of(layer)
    assert weight is not None
    matrix = weight_matrix(layer, weight)
    holder, slot = _bias_place(node)
    outputs = matrix.shape[0] * matrix.shape[2]
    bias = _bias(holder, slot, outputs) if holder is node else np.zeros(outputs)
    train, holdout = (NormalEquations(matrix.shape[0], matrix.shape[1], outputs) for _ in range(2))
    data = node.inputs[0]
    assert data is not None
    for number, (x, positions, y) in enumerate(zip(frontier.values(data), target.positions, target.outputs)):
        if number in held_out:
            continue
        rows, apart = inputs_at(layer, x, positions), _holdout_rows(number, len(positions), len(target.outputs))
        if holdout.is_ample:
            apart[:] = False
        train.add(rows[~apart], y[~apart])
        holdout.add(rows[apart], y[apart])
    start = bias.reshape(matrix.shape[0], -1)
    fitted = fit(train, holdout, matrix, start, ridge, holder is not None, is_rough, is_last=True)
    equations = train.absorb(holdout)
    before = equations.error(matrix, start)
    if fitted is None:
        return Refit(node, before, before)
    tensor, shift = weight_tensor(layer, fitted[0], weight.shape), fitted[1]
    quantized = None if layer.weight.constant is not None else quantized_weight(layer)
    if quantized is not None:  # rounding to codes may lose more than the refit gains
        tensor = dequantize(quantized, *round_to_codes(quantized, tensor))
    after = equations.error(weight_matrix(layer, tensor), shift)
    if after >= before:
        return Refit(node, before, before)
    store_weight(layer, tensor)
    if holder is not None:
        whole = shift.reshape(-1) + (0 if holder is node else _bias(holder, slot, outputs))
        _set_bias(holder, slot, whole.astype(np.float32 if quantized is not None else weight.dtype))
    return Refit(node, before, after)


def _holdout_rows(sample: int, rows: int, samples: int) -> Array:
    """bool[rows]: the rows held out of a fit, all of every fifth sample, or every fifth row where samples are few."""
    if samples >= _MANY_SAMPLES:
        return np.full(rows, sample % _FOLDS == _FOLDS - 1)
    return np.equal(np.arange(rows) % _FOLDS, _FOLDS - 1)


def _bias_place(node: Node) -> tuple[Node | None, int]:
    """The node and slot of a layer's bias: its own third input, or the constant in an Add that alone reads a MatMul."""
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
    inputs = [*holder.inputs, *([None] * (slot + 1 - len(holder.inputs)))]
    inputs[slot] = Value(name=old.name if old is not None else "", constant=Constant.of(bias))
    graph.set_inputs(holder, inputs)


def _refit_norm(target: _Target, frontier: Frontier) -> Refit:
    """y ≈ a x + b for each channel, written as the scale and shift of the BatchNormalization."""
    node = target.layer.node
    data = node.inputs[0]
    assert data is not None
    pairs = zip(frontier.values(data), target.positions)
    x = np.concatenate([inputs_at(target.layer, value, positions)[:, :, 0] for value, positions in pairs])
    y = np.concatenate(target.outputs)
    scale, shift, mean, variance = (v.constant.array().astype(np.float64) for v in node.inputs[1:5])  # type: ignore[union-attr]
    deviation = np.sqrt(variance + float(attr(node, "epsilon", 1e-5)))
    now = (x - mean) / deviation * scale + shift
    spread = np.var(now, axis=0)
    ratio = np.divide(np.std(y, axis=0), np.sqrt(spread), out=np.ones_like(spread), where=spread > 1e-12)
    ratio = np.clip(ratio, 1 / _NORM_SCALE, _NORM_SCALE)
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
        parameter = Constant.of(array.astype(old.constant.array().dtype))
        graph.set_input(node, slot, Value(name=old.name, constant=parameter))
    return Refit(node, before, after)
