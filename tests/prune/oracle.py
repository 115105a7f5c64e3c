"""The oracle of removal: the original with zeros for the removed channels where layers read them."""

from __future__ import annotations

import numpy as np
import onnx

from graphopt import compare, onnx_io
from graphopt.analysis.channels import RANGE, ChannelFacts, WeightedLayer, find_channels
from graphopt.ir import Constant, Model, Node, TensorType, Value, verify
from graphopt.passes.prune.cut.remove import remove, unshare
from graphopt.passes.prune.select.selection import choose_classes

Kept = np.ndarray
ZERO_POINT = {
    "QLinearConv": 2, "QLinearMatMul": 2, "MatMulInteger": 2, "ConvInteger": 2, "com.microsoft::QGemm": 2,
    "com.microsoft::MatMulIntegerToFloat": 4,
}  # fmt: skip


def draw(facts: ChannelFacts, seed: int, ratio: float, approximate: bool = False) -> Kept:
    """Random channels of every group; those whose removal is not exact stay."""
    rng = np.random.default_rng(seed)
    kept = np.ones(facts.count, bool)
    for group in facts.groups:
        keep = max(1, round(group.size * (1 - ratio)))
        exact = all(kind == RANGE for kind in group.approximate)
        stay = choose_classes(group, rng.random(group.size), keep) if approximate or exact else None
        if stay is not None:
            kept[group.classes] = False
            kept[stay] = True
    return kept


def masked(model: Model, facts: ChannelFacts, kept: Kept) -> None:
    """Give every layer zeros for the removed channels of its inputs, in place: the same as zeros in its weight, where
    they are put, too, if that is infinite there.

    Channels that are quantized on their way to a layer are zero before, unless all stay and the layer reads a
    selection.
    """
    selecting = {selection.node for selection in facts.selections}
    for reduction in facts.reductions:
        if not kept[reduction.elements].all():
            raise NotImplementedError("an estimated sum")
    done: set[Value] = set()
    for node, slot, axis, classes in _reads(facts):
        if kept[classes].all():
            continue
        data = node.inputs[slot]
        dynamic = data.producer is not None and data.producer.op == "DynamicQuantizeLinear"
        if dynamic and node not in selecting:
            node, slot, data = data.producer, 0, data.producer.inputs[0]
            if data in done:
                continue
        zeroed = _zeroed(node, data, len(facts.axes[data]), axis, kept[classes])
        node.graph.set_input(node, slot, zeroed)
        done.add(zeroed)
    for layer in facts.layers:
        if layer.kind == "dense" and layer.inputs is not None:
            _make_finite(layer, kept[layer.inputs])


def _make_finite(layer: WeightedLayer, flags: np.ndarray) -> None:
    """Zeros in a weight of dense channels, where `flags` are false, if it holds what times zero is NaN."""
    constant = layer.weight.constant
    if constant is None or not constant.dtype.is_float or np.isfinite(constant.array()).all():
        return
    shape = [1] * len(constant.shape)
    shape[layer.in_axis] = len(flags)
    slot = next(i for i, value in enumerate(layer.node.inputs) if value is layer.weight)
    array = np.where(flags.reshape(shape), constant.array(), constant.dtype.numpy.type(0))
    layer.node.graph.set_input(layer.node, slot, Value(constant=Constant.of(array)))


def _reads(facts: ChannelFacts):
    """Node, slot and axis of everything that is read with a weight, or summed over, and the classes there."""
    for layer in facts.layers:
        if layer.kind != "depthwise" and layer.inputs is not None:
            yield layer.node, *layer.data, layer.inputs
    for product in facts.products:
        yield product.node, 0, -1, product.elements


def _zeroed(node: Node, data: Value, rank: int, axis: int, flags: np.ndarray) -> Value:
    """`data` with zeros where `flags` are false, in front of `node`; of integers zero is their zero point."""
    assert node.graph is not None
    shape = [1] * rank
    shape[axis] = len(flags)
    mask = Value(constant=Constant.of(flags.reshape(shape)))
    slot = ZERO_POINT.get(node.op)
    zero = node.input(slot) if slot is not None else None
    if zero is None:
        dtype = data.type.dtype.numpy if isinstance(data.type, TensorType) else np.dtype(np.float32)
        zero = Value(constant=Constant.of(np.zeros((), dtype)))
    where = Node("Where", (mask, data, zero), None, (data.type,))
    node.graph.insert_before(node, where)
    return where.output


def both(proto: onnx.ModelProto, seed: int, ratio: float = 0.4) -> tuple[Model, Model, int]:
    """The masked original, the pruned model, and how many classes went."""
    masked_model, pruned = onnx_io.load(proto), onnx_io.load(proto)
    unshare(masked_model)
    unshare(pruned)
    facts = find_channels(pruned)
    kept = draw(facts, seed, ratio)
    masked(masked_model, find_channels(masked_model), kept)
    remove(facts, kept)
    verify(pruned)
    return masked_model, pruned, int((~kept).sum())


def assert_exact(
    proto: onnx.ModelProto, seed: int, ratio: float = 0.4, inputs: object = None, status: tuple[str, ...] = ("equal",)
) -> int:
    """Prune random channels of every group and compare; returns how many classes went."""
    expected, pruned, removed = both(proto, seed, ratio)
    if not removed:
        return 0
    proto = onnx_io.to_proto(pruned)
    onnx.checker.check_model(proto, full_check=True)
    comparison = compare(
        onnx_io.to_proto(expected), proto, inputs, samples=2, power=False, intermediates=False, threads=1
    )
    assert comparison.status in status, f"{comparison}\n{pruned}"
    return removed
