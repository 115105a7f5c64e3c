"""Importance of channels from backward passes: the effect of removal on the model's results, to first order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from ....analysis.channels import ChannelFacts
from ....equivalence.feeds import Feeds
from ....gradient.sensitivity import DRAWS, slopes
from ....ir import Array, Constant, Model, Node, TensorType, Value, clone_model
from .measured import add_assumed

SAMPLES = 64
"""The most samples to differentiate: a budget of time, as each costs a run and a backward pass for "taylor", two for
"fisher". `python -m tests.bench.prune_fashion` shows the accuracy."""


def gradient_scores(model: Model, facts: ChannelFacts, importance: str, feeds: Iterable[Feeds], seed: int) -> Array:
    """f64[classes]: one score a class. Each channel c gets a gate m_c = 1 before every layer that reads it, and all
    scores are of ∂y/∂m_c, whose negative is the change of the results y when c is removed, to first order:

    "fisher": E ‖∂y/∂m_c‖² / E ‖y‖², the empirical Fisher pruning of Theis et al. 2018 (arXiv 1801.05787) for results
    with Gaussian noise: the relative squared error of the results. "taylor": E ⟨y, ∂y/∂m_c⟩² / (E ‖y‖²)², the squared
    first-order term of Molchanov et al. 2019 (arXiv 1906.10771) for the loss ½‖y‖², which needs no labels either; a
    loss that compares results with the model's own, such as KL, has no first-order term.

    A layer in a nested graph, or of integers, is assumed to have inputs of equal energy. ModelError where a node
    between a gate and the results has no gradient.
    """
    gated = clone_model(model)
    copies = dict(zip(model.graph.walk(), gated.graph.walk()))
    gates: dict[str, Array] = {}
    scores = np.zeros(facts.count)
    for layer in facts.layers:
        if layer.inputs is None or layer.kind in ("depthwise", "norm"):  # their channels are read behind them
            continue
        slot, axis = layer.data
        behind = (
            len(layer.weight.type.shape or ()) - 2 if axis == 1 and isinstance(layer.weight.type, TensorType) else 0
        )
        added = _add_gate(copies[layer.node], slot, len(layer.inputs), behind if axis == 1 else -1 - axis, len(gates))
        if added is None or layer.node.graph is not model.graph:
            add_assumed(layer, scores)
        else:
            gates[added] = layer.inputs
    for product in facts.products:
        if product.node.graph is model.graph:
            added = _add_gate(copies[product.node], 0, len(product.elements), 0, len(gates))
            if added is not None:
                gates[added] = product.elements
    if gates:
        scores += _squared_slopes(gated, gates, importance, feeds, seed, facts.count)
    return scores


def _add_gate(node: Node, slot: int, channels: int, behind: int, number: int) -> str | None:
    """Multiply an operand by ones f[channels, 1, …] with `behind` trailing axes; returns their name, None for codes."""
    value, graph = node.inputs[slot], node.graph
    if value is None or graph is None or not isinstance(value.type, TensorType) or not value.type.dtype.is_float:
        return None
    ones = np.ones((channels, *[1] * behind), value.type.dtype.numpy)
    gate = Value(name=f"graphopt.gate{number}", constant=Constant.of(ones, value.type.dtype))
    product = Node("Mul", [], None, [value.type])
    graph.insert_before(node, product)
    graph.set_inputs(product, [value, gate])
    graph.set_input(node, slot, product.output)
    return gate.name


def _squared_slopes(
    gated: Model, gates: dict[str, Array], importance: str, feeds: Iterable[Feeds], seed: int, count: int
) -> Array:
    """E (∂⟨s, y⟩/∂m)² by class, relative to the results; a class read by several layers has one joint gate."""
    taylor = importance == "taylor"
    draws = 1 if taylor else DRAWS
    total, energy, passes = np.zeros(count), 0.0, 0
    for found, of_results in slopes(
        gated, islice(feeds, SAMPLES), list(gates), draws=draws, seed=seed, of_energy=taylor
    ):
        own = np.zeros(count)
        for name, classes in gates.items():
            np.add.at(own, classes, found[name].reshape(-1))
        total += np.square(own)
        energy += of_results
        passes += 1
    mean = max(energy / passes, 1e-30)
    return total / passes / (mean * mean if taylor else mean)
