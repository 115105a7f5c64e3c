"""What removal must equal: the original whose readers have zeros for the removed channels."""

from __future__ import annotations

import numpy as np
import onnx

from graphopt import compare, onnx_io
from graphopt.analysis.channels import Channels, channels
from graphopt.ir import Constant, Model, Node, TensorType, Value, verify
from graphopt.passes.prune.remove import remove, unshare
from graphopt.passes.prune.selection import choose

Kept = np.ndarray


def draw(facts: Channels, seed: int, ratio: float, approximate: bool = False) -> Kept:
    """Random channels of every group; those whose removal is not exact stay."""
    rng = np.random.default_rng(seed)
    kept = np.ones(facts.count, bool)
    for group in facts.groups:
        keep = max(1, round(group.size * (1 - ratio)))
        stay = choose(group, rng.random(group.size), keep) if approximate or not group.approximate else None
        if stay is not None:
            kept[group.classes] = False
            kept[stay] = True
    return kept


def masked(model: Model, facts: Channels, kept: Kept) -> None:
    """Multiply what every layer reads by 0 where it is removed, in place: the same as zeros in its weight."""
    for layer in facts.linears:
        if layer.kind == "depthwise" or layer.inputs is None or kept[layer.inputs].all():
            continue
        slot, axis = layer.data
        data = layer.node.inputs[slot]
        assert isinstance(data.type, TensorType) and data.type.rank is not None and layer.node.graph is not None
        shape = [1] * data.type.rank
        shape[axis] = len(layer.inputs)
        zeros = Value(constant=Constant.of(kept[layer.inputs].astype(data.type.dtype.numpy).reshape(shape)))
        product = Node("Mul", (data, zeros), None, (data.type,))
        layer.node.graph.insert_before(layer.node, product)
        layer.node.graph.set_input(layer.node, slot, product.output)


def both(proto: onnx.ModelProto, seed: int, ratio: float = 0.4) -> tuple[Model, Model, int]:
    """The masked original, the pruned model, and how many classes went."""
    masked_model, pruned = onnx_io.load(proto), onnx_io.load(proto)
    unshare(masked_model)
    unshare(pruned)
    facts = channels(pruned)
    kept = draw(facts, seed, ratio)
    masked(masked_model, channels(masked_model), kept)
    remove(pruned, facts, kept)
    verify(pruned)
    return masked_model, pruned, int((~kept).sum())


def assert_exact(
    proto: onnx.ModelProto, seed: int, ratio: float = 0.4, inputs: object = None, status: tuple[str, ...] = ("equal",)
) -> int:
    """Prune random channels of every group and compare; returns how many classes went."""
    expected, pruned, removed = both(proto, seed, ratio)
    if not removed:
        return 0
    made = onnx_io.to_proto(pruned)
    onnx.checker.check_model(made, full_check=True)
    found = compare(onnx_io.to_proto(expected), made, inputs, samples=2, power=False, intermediates=False, threads=1)
    assert found.status in status, f"{found}\n{pruned}"
    return removed
