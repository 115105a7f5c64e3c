"""Importance of channels from weights: one score a class, larger is more important."""

from __future__ import annotations

import numpy as np

from ....analysis.channels import ChannelFacts, WeightedLayer
from ....compress.layers.weights import floats_of
from ....ir import Array, Model
from ..options import Importance

_AT_ONCE = 1 << 22
"""Weights squared at a time: 32 MB in double precision."""


def weight_scores(
    facts: ChannelFacts, importance: str | Importance, seed: int, scales: dict[str, Array] | None = None
) -> Array:
    """f64[classes]: scores from the weights of a channel's makers. `scales`: of BatchNormalization, by node name."""
    scores = np.zeros(facts.count)
    if importance == "random":
        return np.random.default_rng(seed).random(facts.count)
    for layer in facts.layers:
        weight = outputs_first(layer)
        if weight is None or layer.outputs is None:
            continue
        if importance == "bn_scale":
            scale = _scale_of(layer, scales or {})
            own = np.sqrt(_squares(weight)) if scale is None else np.abs(scale)
        elif importance == "l1":
            own = np.abs(weight.reshape(len(weight), -1)).sum(axis=1)
        elif importance == "l2":
            own = _squares(weight)
        else:
            assert callable(importance)
            own = np.asarray(importance(weight), np.float64).reshape(len(weight))
        np.add.at(scores, layer.outputs, own)
    _add_selections(facts, scores)
    return np.sqrt(scores) if importance == "l2" else scores


def _add_selections(facts: ChannelFacts, scores: Array) -> None:
    """Score the inputs that a layer may select by that layer's weights: no layer of their group produces them."""
    selecting = {selection.node for selection in facts.selections}
    for layer in facts.layers:
        weight = floats_of(layer) if layer.node in selecting and layer.inputs is not None else None
        if weight is not None and layer.inputs is not None and layer.in_axis is not None:
            np.add.at(scores, layer.inputs, _squares(np.moveaxis(weight, layer.in_axis, 0)))


def outputs_first(layer: WeightedLayer) -> Array | None:
    """The weight with its outputs first, f32[channels, ...]; None where it is unknown."""
    stored = None if layer.outputs is None else floats_of(layer)
    if stored is None or layer.outputs is None:
        return None
    array = stored.astype(np.float32, copy=False)
    if layer.kind == "grouped" and layer.out_axis == 1:  # [C, M / g, ...] of a transposed convolution
        parts = array.reshape(layer.groups, -1, *array.shape[1:])
        return np.moveaxis(parts, 2, 1).reshape(len(layer.outputs), -1)
    return np.moveaxis(array, layer.out_axis, 0).reshape(len(layer.outputs), -1)


def _squares(weight: Array) -> Array:
    """f64: the sum of squares of each row, some rows at a time, as copies in double precision are large."""
    flat = weight.reshape(len(weight), -1)
    step = max(1, _AT_ONCE // max(flat.shape[1], 1))
    sums = [np.square(flat[at : at + step], dtype=np.float64).sum(axis=1) for at in range(0, len(flat), step)]
    return np.concatenate(sums or [np.zeros(0)])


def _scale_of(layer: WeightedLayer, scales: dict[str, Array]) -> Array | None:
    for name in layer.node.origins:
        scale = scales.get(name)
        if scale is not None and layer.outputs is not None and len(scale) == len(layer.outputs):
            return scale
    use = layer.node.output.uses[0] if layer.node.output.has_one_use else None
    if use is not None and use.node.op == "BatchNormalization":
        constant = use.node.constant(1)
        return None if constant is None else constant.array().astype(np.float64)
    return None


def norm_scales(model: Model) -> dict[str, Array]:
    """The scale of every BatchNormalization by node name: folding keeps only the names."""
    scales = {}
    for node in model.graph.walk():
        constant = node.constant(1) if node.op == "BatchNormalization" else None
        if constant is not None and node.name:
            scales[node.name] = constant.array().astype(np.float64)
    return scales
