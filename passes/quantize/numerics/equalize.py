"""Cross-layer equalization (Nagel et al. 2019): channels between two layers get equal ranges.

W2 relu(W1 x + b1) = (W2 S) relu(S⁻¹ (W1 x + b1)) for any positive diagonal S. With s = √(r1 / r2), r the largest weight
of a channel in its layer, both layers' channels span √(r1 r2): one scale then fits all channels between them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....compress.layers.linear import Linear, linear_of
from ....errors import Declined
from ....ir import Constant, Graph, Model, Node, Value

SWEEPS, LIMIT = 4, 32.0
"""Sweeps over all pairs (a layer is in two pairs, so that one sweep does not converge), and the largest scaling of a
channel per sweep. `python -m tests.bench.zoo_int8` shows the effect."""
SPREAD = 8.0
"""Least ratio of a pair's channel ranges for scaling it, 3 of 8 bits: weights have scales a channel anyway. `python -m
tests.bench.zoo_int8` shows the effect."""


def equalize(model: Model) -> int:
    """Equalize all pairs of layers in place; the model's function is unchanged. Returns the number of pairs scaled."""
    pairs = list(_pairs(model.graph))
    changed = set()
    for _ in range(SWEEPS):
        for first, second in pairs:
            if _scale(model.graph, first, second):
                changed.add(first)
    return len(changed)


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Conv, perhaps Relu, Conv, where each result has one reader."""
    for node in graph:
        if node.op != "Conv" or not node.output.has_one_use:
            continue
        user = node.output.uses[0].node
        if user.op == "Relu" and user.output.has_one_use:
            user = user.output.uses[0].node
        if user.op == "Conv" and user.graph is graph and _between(node, user):
            yield node, user


def _between(first: Node, second: Node) -> bool:
    value = second.inputs[0]
    try:
        linear_of(first), linear_of(second)
    except Declined:
        return False
    return value is not None and value.producer in (first, first.output.uses[0].node)


def _ranges(linear: Linear, of_inputs: bool) -> np.ndarray:
    """The largest |weight| of each output channel, or of each input channel."""
    weight = np.abs(linear.weight)
    if not of_inputs:
        peaks: np.ndarray = weight.reshape(len(weight), -1).max(axis=1)
        return peaks
    grouped = weight.reshape(linear.groups, -1, *weight.shape[1:]).max(axis=1)  # [G, C/G, …]
    return np.asarray(grouped.reshape(linear.groups * weight.shape[1], -1).max(axis=1))


def _scale(graph: Graph, first: Node, second: Node) -> bool:
    a, b = linear_of(first), linear_of(second)
    r1, r2 = _ranges(a, False), _ranges(b, True)
    if r1.shape != r2.shape or not (r1 > 0).all() or not (r2 > 0).all():
        return False
    s = np.clip(np.sqrt(r1.astype(np.float64) / r2), 1 / LIMIT, LIMIT)
    s = s / np.exp(np.log(s).mean())
    s = np.exp2(np.round(np.log2(s))).astype(np.float32)  # powers of two: nothing is rounded
    if (r1.max() < SPREAD * r1.min()) or bool((s == 1).all()):
        return False
    shape = (-1, *(1,) * (a.weight.ndim - 1))
    _set(graph, first, 1, a.weight / s.reshape(shape))
    if a.bias is not None:
        _set(graph, first, 2, a.bias / s)
    per_group = s.reshape(b.groups, -1)
    weight = b.weight.reshape(b.groups, -1, *b.weight.shape[1:])
    spread = per_group.reshape(b.groups, 1, per_group.shape[1], *(1,) * (b.weight.ndim - 2))
    _set(graph, second, 1, (weight * spread).reshape(b.weight.shape))
    return True


def _set(graph: Graph, node: Node, slot: int, array: np.ndarray) -> None:
    old = node.inputs[slot]
    name = old.name if old is not None else ""
    graph.set_input(node, slot, Value(constant=Constant.of(np.ascontiguousarray(array, np.float32)), name=name))
