"""Remove channels: slice constants, correct sizes stored in the graph, retype.

The result equals, exactly, the original with zero weights for the removed channels in the layers that read them, except
for channels of approximate groups.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....analysis.channels import (
    ChannelFacts,
    Classes,
    ConstantGather,
    GrowingReduction,
    InputSelection,
    Shuffle,
    SizeUpdate,
    WeightedLayer,
)
from ....ir import Constant, DType, Model, Node, TensorType, Value

Kept = np.ndarray[Any, np.dtype[np.bool_]]
"""Whether each class is kept, bool[ChannelFacts.count]."""


def unshare(model: Model) -> int:
    """Copy shared vectors for every use: equal biases of two layers must not couple their channels.

    Edits in place; returns how many constants were copied. Matrices stay shared, since tied weights are intended.
    """
    copied = 0
    for graph in model.graph.graphs():
        for node in graph:
            for slot, value in enumerate(node.inputs):
                if value is None or value.constant is None or len(value.uses) < 2:
                    continue
                if sum(size > 1 for size in value.constant.shape) != 1:
                    continue
                graph.set_input(node, slot, Value(value.type, value.name, constant=value.constant))
                copied += 1
    return copied


def remove(facts: ChannelFacts, kept: Kept) -> None:
    """Remove every class that is not kept from the model of `facts`, in place.

    Every partition must keep equal numbers in all its parts.
    """
    grouped = {layer.weight: layer for layer in facts.layers if layer.kind == "grouped"}
    for value, axes in facts.axes.items():
        if value.constant is None:
            _retype(value, axes, kept)
            continue
        array = _cut(value, axes, kept, grouped.get(value))
        if array is not None:
            _replace(value, array)
    for update in facts.size_updates:
        _update_sizes(update, kept)
    for gather in facts.gathers:
        _renumber(gather, kept)
    for shuffle in facts.shuffles:
        _shuffle(shuffle, kept)
    for selection in facts.selections:
        _select(selection, kept)
    for reduction in facts.reductions:
        _scale(reduction, kept)


def _cut(
    value: Value, axes: tuple[Classes | None, ...], kept: Kept, grouped: WeightedLayer | None
) -> np.ndarray[Any, Any] | None:
    """The constant without removed positions; None where none are removed."""
    assert value.constant is not None
    whole = [classes is None or bool(kept[classes].all()) for classes in axes]
    local = grouped is not None and _touched(grouped, kept)
    if all(whole) and not local:
        return None
    array = value.constant.array()
    if grouped is not None:
        return cut_groups(array, grouped, kept)
    for axis, classes in enumerate(axes):
        if classes is not None and not whole[axis]:
            array = array.compress(kept[classes], axis=axis)
    return np.ascontiguousarray(array)


def _touched(layer: WeightedLayer, kept: Kept) -> bool:
    return any(c is not None and not kept[c].all() for c in (layer.inputs, layer.outputs))


def cut_groups(array: np.ndarray[Any, Any], layer: WeightedLayer, kept: Kept) -> np.ndarray[Any, Any]:
    """A grouped layer's weight, group by group: [M, C / g, ...] of Conv, [C, M / g, ...] of ConvTranspose."""
    first, second = (layer.outputs, layer.inputs) if layer.out_axis == 0 else (layer.inputs, layer.outputs)
    rows = _flags(first, array.shape[0], kept).reshape(layer.groups, -1)
    columns = _flags(second, array.shape[1] * layer.groups, kept).reshape(layer.groups, -1)
    parts = array.reshape(layer.groups, -1, *array.shape[1:])
    return np.concatenate([part[row][:, column] for part, row, column in zip(parts, rows, columns)])


def _flags(classes: Classes | None, size: int, kept: Kept) -> Kept:
    return np.ones(size, bool) if classes is None else kept[classes]


def _replace(value: Value, array: np.ndarray[Any, Any]) -> None:
    assert value.constant is not None
    smaller = Value(name=value.name, constant=Constant.of(array, value.constant.dtype))
    smaller.doc = value.doc
    for use in value.uses:
        assert use.node.graph is not None
        use.node.graph.set_input(use.node, use.slot, smaller)


def _retype(value: Value, axes: tuple[Classes | None, ...], kept: Kept) -> None:
    if not isinstance(value.type, TensorType) or value.type.shape is None or len(value.type.shape) != len(axes):
        return
    shape = list(value.type.shape)
    for axis, classes in enumerate(axes):
        if classes is not None and not kept[classes].all():
            shape[axis] = int(kept[classes].sum())
    value.type = TensorType(value.type.dtype, tuple(shape))


def _update_sizes(update: SizeUpdate, kept: Kept) -> None:
    if all(kept[classes].all() for classes in update.counts.values()):
        return
    numbers = list(update.base)
    for index, classes in update.counts.items():
        numbers[index] = int(kept[classes].sum())
    graph, node = update.node.graph, update.node
    assert graph is not None
    if update.slot is None:
        scalar = not isinstance(node.attrs.get(update.name), tuple)
        graph.set_attr(node, update.name, numbers[0] if scalar else tuple(numbers))
        return
    before = node.input(update.slot)
    shape = before.constant.shape if before is not None and before.constant is not None else (len(numbers),)
    dtype = before.constant.dtype if before is not None and before.constant is not None else DType.INT64
    sizes = Value(
        name=before.name if before is not None else "",
        constant=Constant.of(np.array(numbers, dtype.numpy).reshape(shape)),
    )
    if update.slot == len(node.inputs):
        graph.set_inputs(node, (*node.inputs, sizes))
        graph.set_attr(node, "num_outputs", None)
    else:
        graph.set_input(node, update.slot, sizes)


def _renumber(gather: ConstantGather, kept: Kept) -> None:
    flags = kept[gather.elements]
    if flags.all():
        return
    rank = np.cumsum(flags) - 1
    indices = np.array(gather.indices, np.int64) % len(flags)
    graph = gather.node.graph
    assert graph is not None
    graph.set_input(gather.node, 1, Value(constant=Constant.of(rank[indices[flags[indices]]])))


def _shuffle(shuffle: Shuffle, kept: Kept) -> None:
    """The kept channels keep their order, which a Reshape cannot give: a Gather does."""
    flags = kept[shuffle.elements]
    if flags.all():
        return
    rank = np.cumsum(flags) - 1
    order = rank[shuffle.order[flags[shuffle.order]]]
    first, _, last = shuffle.nodes
    graph = first.graph
    assert graph is not None
    inputs = (first.inputs[0], Value(constant=Constant.of(order), name=first.name))
    gather = Node("Gather", inputs, {"axis": shuffle.axis}, (last.output.type,), name=last.name)
    gather.origins = tuple(dict.fromkeys(name for node in shuffle.nodes for name in node.origins))
    gather.made_by = "prune"
    graph.insert_before(last, gather)
    graph.replace_uses(last.output, gather.output)
    graph.erase_unused(last)


def _select(selection: InputSelection, kept: Kept) -> None:
    """Give a layer only the kept inputs, by a Gather; two successive Gathers become one."""
    flags = kept[selection.elements]
    if flags.all():
        return
    node, data = selection.node, selection.node.inputs[selection.slot]
    graph, picked = node.graph, np.flatnonzero(flags)
    assert graph is not None and data is not None
    before = data.producer
    if before is not None and before.made_by == "prune" and before.op == "Gather":
        earlier = before.constant(1)
        if before.attrs.get("axis") == selection.axis and earlier is not None:
            data, picked = before.inputs[0], earlier.array()[picked]
    type = None if data is None else data.type
    if isinstance(type, TensorType) and type.shape is not None:
        shape = (*type.shape[: selection.axis], len(picked), *type.shape[selection.axis + 1 :])
        type = TensorType(type.dtype, shape)
    gather = Node("Gather", (data, Value(constant=Constant.of(picked))), {"axis": selection.axis}, (type,))
    gather.origins, gather.made_by = node.origins, "prune"
    graph.insert_before(node, gather)
    graph.set_input(node, selection.slot, gather.output)
    if before is not None and before.op == "Gather" and before.output.is_unused and before.graph is not None:
        before.graph.erase_unused(before)


def _scale(reduction: GrowingReduction, kept: Kept) -> None:
    """Scale a sum over kept values to estimate the sum over all: times all / kept."""
    flags = kept[reduction.elements]
    if flags.all():
        return
    node, growth = reduction.node, len(flags) / max(int(flags.sum()), 1)
    graph, type = node.graph, node.output.type
    assert graph is not None and isinstance(type, TensorType)
    logarithmic = node.op in ("ReduceLogSum", "ReduceLogSumExp")
    number = math.log(growth) if logarithmic else math.sqrt(growth) if node.op == "ReduceL2" else growth
    constant = Value(constant=Constant.of(np.array(number, type.dtype.numpy), type.dtype))
    scaled = Node("Add" if logarithmic else "Mul", (node.output, constant), None, (type,))
    scaled.origins, scaled.made_by = node.origins, "prune"
    graph.insert_after(node, scaled)
    graph.replace_uses(node.output, scaled.output)
    graph.set_input(scaled, 0, node.output)
