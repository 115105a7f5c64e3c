"""Layers with weights: convolutions, matrix products, embeddings, recurrent layers."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Node, Value
from ...ops import attr
from .couplings import ActivationProduct, ConstantGather, InputSelection, WeightedLayer
from .elements import Ids
from .elementwise import broadcast, where
from .tracker import Tracker, integers, transfer


def weight_of(t: Tracker, node: Node, slot: int = 1) -> Value:
    """The weight at an input slot: constant, or computed from constants. Declined for anything else."""
    value = node.input(slot)
    if value is None or not t.is_static(value):
        raise Declined("its weight is computed")
    return value


def by_output(t: Tracker, node: Node, slot: int, outputs: Ids | None) -> None:
    """Couple a bias, scale or zero point at `slot` to the output channels, unless one number serves all channels."""
    value = node.input(slot)
    if value is None:
        return
    along = [ids for ids in t.axes(value) if ids is not None]
    if along:
        t.join([outputs, along[-1]], f"{where(node)} has a bias that stays")


def reads(t: Tracker, node: Node, slot: int, axis: int, data: Ids | None, weight: Ids | None) -> Ids | None:
    """The input channels of a layer: its data's at `slot`, or a selection of these (see `Tracker.selected`)."""
    if weight is None:
        t.fix(data, f"{where(node)} reads it")
        return None
    if node not in t.selected:
        return t.join([data, weight], f"{where(node)} reads values that stay")
    t.selections.append(InputSelection(node, slot, axis, weight))
    return weight


@transfer("Conv")
def conv(t: Tracker, node: Node) -> None:
    """Weight [M, C / group, ...]."""
    convolution(t, node, weight_of(t, node))
    by_output(t, node, 2, t.axes(node.output)[1])


def convolution(t: Tracker, node: Node, w: Value) -> None:
    """A convolution of input 0 by `w`; scales and biases are left to the caller."""
    data, weight = t.axes(node.inputs[0]), t.axes(w)
    group, outputs = int(attr(node, "group", 1)), weight[0]
    t.fix_all(data[2:], f"{where(node)} mixes it")
    t.set(node.output, (data[0], outputs, *(None for _ in data[2:])))
    if group == 1:
        t.layer(WeightedLayer(node, w, "dense", 1, 0, 1, outputs, reads(t, node, 0, 1, data[1], weight[1])))
    elif weight[1] is None and t.size(w, 1) == 1:
        _depthwise(t, node, w, 0, group)
    else:
        _grouped(t, node, w, 0, 1, group)


def _depthwise(t: Tracker, node: Node, w: Value, axis: int, group: int) -> None:
    """Input channel c alone yields output channels c m … c m + m − 1."""
    data, outputs = t.axes(node.inputs[0])[1], t.axes(w)[axis]
    if outputs is None:
        return
    per = len(outputs) // group
    inputs = None if data is None else np.repeat(data, per)
    t.join([outputs, inputs], f"{where(node)} reads values that stay")
    t.layers.append(WeightedLayer(node, w, "depthwise", group, axis, None, outputs, inputs))
    t.update_size(node, "group", (group,), 0, data)


def _grouped(t: Tracker, node: Node, w: Value, out_axis: int, in_axis: int, group: int) -> None:
    """Groups of equal size; the weight's axis within a group carries no elements."""
    if w.constant is None or len(w.uses) != 1:
        raise Declined("the weight of its groups is computed or used elsewhere")
    data = t.axes(node.inputs[0])[1]
    outputs = t.axes(node.output)[1]
    t.partition(data, group)
    t.partition(outputs, group)
    t.layer(WeightedLayer(node, w, "grouped", group, out_axis, in_axis, outputs, data))


@transfer("ConvTranspose")
def conv_transpose(t: Tracker, node: Node) -> None:
    """Weight [C, M / group, ...]."""
    x, w = node.inputs[0], weight_of(t, node)
    data, weight = t.axes(x), t.axes(w)
    group = int(attr(node, "group", 1))
    t.fix_all(data[2:], f"{where(node)} mixes it")
    rest = tuple(None for _ in data[2:])
    if group == 1:
        t.set(node.output, (data[0], weight[1], *rest))
        t.layer(WeightedLayer(node, w, "dense", 1, 1, 0, weight[1], reads(t, node, 0, 1, data[1], weight[0])))
    elif t.size(w, 1) == 1 and weight[0] is not None:
        t.set(node.output, (data[0], weight[0], *rest))
        _depthwise(t, node, w, 0, group)
    else:
        local = t.size(w, 1)
        assert isinstance(local, int)
        t.set(node.output, (data[0], t.fresh(local * group), *rest))
        _grouped(t, node, w, 1, 0, group)
    by_output(t, node, 2, t.axes(node.output)[1])


@transfer("Gemm")
def gemm(t: Tracker, node: Node) -> None:
    """alpha A B + beta C, with constant B."""
    x, w = node.inputs[0], weight_of(t, node)
    if attr(node, "transA", 0):
        raise Declined("its data are transposed")
    data, weight = t.axes(x), t.axes(w)
    out_axis, in_axis = (0, 1) if attr(node, "transB", 0) else (1, 0)
    outputs = weight[out_axis]
    inputs = reads(t, node, 0, 1, data[1], weight[in_axis])
    rows = data[0]
    bias = node.input(2)
    if bias is not None and len(t.axes(bias)) == 2 and t.size(bias, 0) != 1:
        rows = t.join([rows, t.axes(bias)[0]], f"{where(node)} adds a matrix")
    t.set(node.output, (rows, outputs))
    t.layer(WeightedLayer(node, w, "dense", 1, out_axis, in_axis, outputs, inputs))
    _last_axis(t, node, bias, outputs)


def _last_axis(t: Tracker, node: Node, bias: Value | None, outputs: Ids | None) -> None:
    if bias is not None and t.axes(bias) and t.size(bias, -1) != 1:
        t.join([outputs, t.axes(bias)[-1]], f"{where(node)} has a bias that stays")


@transfer("MatMul")
def matmul(t: Tracker, node: Node) -> None:
    """[..., m, k] [..., k, n]: a layer where one side is constant, else a product of activations."""
    product(t, node, 0, 1)


def product(t: Tracker, node: Node, first: int, second: int) -> None:
    """A product of the inputs at two slots; scales and biases are left to the caller."""
    a, b = node.inputs[first], node.inputs[second]
    assert a is not None and b is not None
    left, right = t.raw_axes(a), t.raw_axes(b)
    if len(left) < 2 or len(right) < 2:
        raise Declined("an operand is a vector")
    t.set(node.output, (*broadcast(t, node, (a, b), drop=2), left[-2], right[-1]))
    along, down = t.plain(left[-1]), t.plain(right[-2])
    if t.is_static(b):
        inputs = reads(t, node, first, len(left) - 1, along, down)
        t.layer(WeightedLayer(node, b, "dense", 1, len(right) - 1, len(right) - 2, t.plain(right[-1]), inputs))
    elif t.is_static(a):
        inputs = reads(t, node, second, len(right) - 2, down, along)
        t.layer(WeightedLayer(node, a, "dense", 1, len(left) - 2, len(left) - 1, t.plain(left[-2]), inputs))
    elif along is not None or down is not None:
        summed = t.join([along, down], f"{where(node)} reads values that stay")
        assert summed is not None
        t.products.append(ActivationProduct(node, summed))
        t.inputs.append(summed)


@transfer("Gather")
def gather(t: Tracker, node: Node) -> None:
    """An embedding if the table is constant; constant indices select positions."""
    table, index = node.inputs[0], node.inputs[1]
    assert table is not None and index is not None
    axes, picks = t.axes(table), t.axes(index)
    axis = int(attr(node, "axis", 0)) % len(axes)
    numbers = integers(index) if index.constant is not None and len(index.constant.shape) == 1 else None
    picked: tuple[Ids | None, ...] = tuple(None for _ in picks)
    ids = axes[axis]
    if ids is not None and numbers is not None and not t.is_static(table):
        picked = (ids[np.array(numbers, np.int64)],)
        t.gathers.append(ConstantGather(node, axis, numbers, ids))
    else:
        t.fix(ids, f"{where(node)} picks from it")
        t.fix_all(picks, f"{where(node)} picks by it")
    t.set(node.output, (*axes[:axis], *picked, *axes[axis + 1 :]))
    if t.is_static(table) and not t.is_static(index):
        for other, channels in enumerate(axes):
            if other != axis and channels is not None:
                t.layer(WeightedLayer(node, table, "table", 1, other, None, channels, None))


@transfer("LSTM", "GRU", "RNN")
def recurrent(t: Tracker, node: Node) -> None:
    """Input channels of X by the weight W [directions, gates, channels]; the states, its outputs, are fixed."""
    w = weight_of(t, node)
    data = t.axes(node.inputs[0])
    t.fix_all(data[:2], f"{where(node)} runs over it")
    inputs = t.join([data[2], t.axes(w)[2]], f"{where(node)} reads values that stay")
    t.fix_all(t.axes(w)[:2], f"{where(node)} keeps its state")
    t.layer(WeightedLayer(node, w, "recurrent", 1, 1, 2, None, inputs))
    for value in node.inputs[2:]:
        if value is not None:
            t.fix_all(t.axes(value), f"{where(node)} keeps its state")
