"""Importance of channels from calibration data: the loss of the layers that read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ....analysis.channels import ActivationProduct, ChannelFacts, WeightedLayer
from ....calibration import Taps, portions
from ....compress.layers.regression import NormalEquations
from ....compress.layers.rows import check_readable, inputs_at, sample_positions, weight_matrix
from ....compress.layers.weights import floats_of
from ....equivalence.feeds import Feeds
from ....errors import Declined
from ....ir import Array, Model, Value

BUDGET = 1 << 29
"""Bytes of sums held at once; if more are needed, the data are read several times."""
_MOST_ROWS, _LEAST_ROWS, _ROWS_PER_INPUT = 20_000, 4_000, 4
"""Rows summed per layer: at most, at least, and per input; a choice between noise and time. `python -m
tests.bench.prune_fashion` shows the accuracy, `tests.bench.prune_speed time` the seconds."""
_DAMPING = 1e-2
"""Added to the diagonal of a Hessian, as a share of its mean, before inversion: as in GPTQ (Frantar et al.
2022). `python -m tests.bench.prune_fashion` shows the accuracy."""


def measured_scores(model: Model, facts: ChannelFacts, importance: str, feeds: Iterable[Feeds], seed: int) -> Array:
    """f64[classes]: one score a class, of these:

    "activation": the mean energy of the channel. "reconstruction": the error in every layer that reads it when it is
    removed, as a share of the energy of the layer's output. "hessian": the same after the layer has been refitted, the
    optimal brain surgeon of Hassibi and Stork 1993 for blocks of weights.

    Where a layer's rows cannot be sampled, inputs of equal energy are assumed; a channel that a product of two
    activations sums over scores the energy of both.
    """
    scores = np.zeros(facts.count)
    readers = [r for r in facts.layers if r.inputs is not None and r.kind != "depthwise"]
    measurable = [r for r in readers if _is_measurable(r)]
    samples = sum(1 for _ in feeds)
    for part in portions(measurable, _sum_bytes, BUDGET):
        for layer, equations in _sums(model, part, feeds, samples, seed):
            _score(layer, equations, importance, scores)
    for layer in readers:
        if layer not in measurable:
            add_assumed(layer, scores)
    _add_products(model, [p for p in facts.products if p.node.graph is model.graph], feeds, scores)
    return scores


def _is_measurable(layer: WeightedLayer) -> bool:
    """Whether the layer's rows can be sampled, and its weight is known."""
    try:
        check_readable(layer)
    except Declined:
        return False
    return layer.kind != "recurrent" and floats_of(layer) is not None


def add_assumed(layer: WeightedLayer, scores: Array) -> None:
    """Add the energy of a channel's weights as a share of the layer's; equal shares where weights are unknown."""
    assert layer.inputs is not None
    weight = floats_of(layer)
    if weight is None or layer.in_axis is None or layer.kind == "grouped":
        own = np.ones(len(layer.inputs))
    else:
        own = np.square(np.moveaxis(weight, layer.in_axis, 0).reshape(len(layer.inputs), -1), dtype=np.float64).sum(1)
    np.add.at(scores, layer.inputs, own / max(float(own.sum()), 1e-30))


def _add_products(model: Model, products: list[ActivationProduct], feeds: Iterable[Feeds], scores: Array) -> None:
    """Add for channel c of a product of two computed values its share E[a_c²] E[b_c²] of the sum over channels."""
    if not products:
        return
    sides = [side for product in products for side in _sides(product)]
    energy: dict[tuple[Value, int], Array] = {}
    taps = Taps(model, list(dict.fromkeys(value for value, _ in sides)))
    for feed in feeds:
        arrays = taps.run(feed)
        for value, axis in dict.fromkeys(sides):
            rows = np.moveaxis(arrays[value], axis, 0).reshape(arrays[value].shape[axis], -1)
            energy[value, axis] = energy.get((value, axis), 0.0) + np.square(rows, dtype=np.float64).mean(axis=1)
    for product in products:
        a, b = (energy[side] for side in _sides(product))
        np.add.at(scores, product.elements, a * b / max(float((a * b).sum()), 1e-30))


def _sides(product: ActivationProduct) -> list[tuple[Value, int]]:
    """Both operands of a product, each with the axis that is summed over."""
    return [(value, axis) for value, axis in zip(product.operands, (-1, -2)) if value is not None]


def _sum_bytes(layer: WeightedLayer) -> int:
    groups, inputs, _ = weight_matrix(layer, _weight(layer)).shape
    return 8 * int(groups) * (int(inputs) + 1) ** 2


def _weight(layer: WeightedLayer) -> Array:
    weight = floats_of(layer)
    assert weight is not None
    return weight


def _sums(
    model: Model, layers: list[WeightedLayer], feeds: Iterable[Feeds], samples: int, seed: int
) -> Iterator[tuple[WeightedLayer, NormalEquations]]:
    rng = np.random.default_rng(seed)
    data = [layer.node.inputs[0] for layer in layers]
    outputs = [layer.node.output for layer in layers]
    taps = Taps(model, [*data, *outputs])  # type: ignore[list-item]
    sums = []
    for layer in layers:
        groups, inputs, _ = weight_matrix(layer, _weight(layer)).shape
        sums.append(NormalEquations(groups, inputs, 0))
    for feed in feeds:
        values = taps.run(feed)
        for layer, equations in zip(layers, sums):
            x = layer.node.inputs[0]
            assert x is not None
            wanted = min(_MOST_ROWS, max(_LEAST_ROWS, _ROWS_PER_INPUT * (equations.inputs + 1)))
            positions = sample_positions(layer, values[layer.node.output].shape, -(-wanted // samples), rng)
            equations.add(inputs_at(layer, values[x], positions), np.zeros((len(positions), 0), np.float32))
    yield from zip(layers, sums)


def _score(layer: WeightedLayer, equations: NormalEquations, importance: str, scores: Array) -> None:
    assert layer.inputs is not None
    weight = weight_matrix(layer, _weight(layer)).astype(np.float64)
    groups, inputs, _ = weight.shape
    per_channel = inputs * groups // len(layer.inputs)
    classes = layer.inputs.reshape(groups, -1)
    rows = max(equations.rows, 1)
    for group in range(groups):
        gram = equations.gram[group] / rows
        w = weight[group]
        energy = float(np.einsum("km,km->", w, gram[:inputs, :inputs] @ w)) + 1e-30
        blocks = w.reshape(-1, per_channel, w.shape[1])
        channels = len(blocks)
        index = np.arange(inputs).reshape(channels, per_channel)
        own = gram[index[:, :, None], index[:, None, :]]
        if importance == "activation":
            loss = np.trace(own, axis1=1, axis2=2) / per_channel
        elif importance == "reconstruction":
            loss = np.einsum("ckm,ckl,clm->c", blocks, own, blocks) / energy
        else:
            loss = _surgeon(gram, blocks, index) / energy
        np.add.at(scores, classes[group], loss)


def _surgeon(gram: Array, blocks: Array, index: Array) -> Array:
    """tr(W_cᵀ (H⁻¹_cc)⁻¹ W_c): the error after all other weights and the bias have adapted to the removal of c."""
    from scipy.linalg import inv

    size = len(gram) - 1
    damped = gram.copy()
    damped[np.arange(size), np.arange(size)] += _DAMPING * np.trace(gram[:size, :size]) / size + 1e-12
    damped[size, size] += 1e-9
    inverse = inv(damped, check_finite=False)
    own = inverse[index[:, :, None], index[:, None, :]]
    return np.asarray(np.einsum("ckm,ckm->c", blocks, np.linalg.solve(own, blocks)))
