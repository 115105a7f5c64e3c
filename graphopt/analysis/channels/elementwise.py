"""Operators that keep positions apart: elementwise with broadcasting, normalization by channel, pooling, reduction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import Declined
from ...ir import Node, TensorType, Value
from ...ops import attr, version_for
from .axes import Axis
from .couplings import NEIGHBOURS, STATISTICS, GrowingReduction
from .elements import Ids
from .tracker import Tracker, integers, transfer

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "com.microsoft::Gelu",
    "com.microsoft::QuickGelu",
)  # fmt: skip
NARY = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip


@transfer(*UNARY)
def unary(t: Tracker, node: Node) -> None:
    """y[i] = f(x[i])"""
    t.set(node.output, t.raw_axes(node.inputs[0]))


@transfer("Dropout")
def dropout(t: Tracker, node: Node) -> None:
    """The mask has the positions of the data."""
    for out in node.outputs:
        t.set(out, t.axes(node.inputs[0]))


@transfer(*NARY)
def nary(t: Tracker, node: Node) -> None:
    """y[i] = f(a[i], b[i], ...), axes aligned at the end, axes of one position repeated."""
    if version_for(node) < 7 and attr(node, "broadcast", 0):
        raise Declined("broadcasting before opset 7")
    t.set(node.output, broadcast(t, node, [v for v in node.inputs if v is not None]))


def broadcast(t: Tracker, node: Node, values: Sequence[Value], drop: int = 0) -> tuple[Axis, ...]:
    """The axes of `values` broadcast against each other, without the last `drop` axes of each."""
    operands = [(v, t.raw_axes(v)[: len(t.raw_axes(v)) - drop]) for v in values]
    rank = max(len(axes) for _, axes in operands)
    joined: list[Axis] = []
    for axis in range(rank):
        parts = []
        for value, axes in operands:
            own = axis - (rank - len(axes))
            if own >= 0 and t.size(value, own) != 1:
                parts.append(axes[own])
        joined.append(t.join_folded(parts, f"{where(node)} joins it with values that stay"))
    return tuple(joined)


def where(node: Node) -> str:
    """A node's name in reasons."""
    return f"{node.op} {node.name}" if node.name else f"{node.op} of {node.outputs[0].name or '?'}"


@transfer("BatchNormalization", "InstanceNormalization")
def by_channel(t: Tracker, node: Node) -> None:
    """One scale, shift, mean and variance a channel of axis 1."""
    axes = list(t.axes(node.inputs[0]))
    if node.op == "BatchNormalization" and any(not out.is_unused for out in node.outputs[1:]):
        raise Declined("it trains")
    reason = f"{where(node)} has parameters that stay"
    axes[1] = t.join([axes[1], *(t.axes(v)[0] for v in node.inputs[1:] if v is not None)], reason)
    t.set(node.output, axes)


@transfer("LayerNormalization", "com.microsoft::SkipLayerNormalization", "RMSNormalization")
def layer_norm(t: Tracker, node: Node) -> None:
    """Mean and variance over the last axes; after removal these are computed over the kept channels."""
    if node.domain or any(not out.is_unused for out in node.outputs[1:]):
        raise Declined("more than the normalised value is used")
    axes = t.raw_axes(node.inputs[0])
    first = int(attr(node, "axis", -1)) % len(axes)
    for axis in axes[first:]:
        t.approximates(t.plain(axis), STATISTICS)
    t.set(node.output, broadcast(t, node, [v for v in node.inputs if v is not None]))


@transfer("GroupNormalization")
def group_norm(t: Tracker, node: Node) -> None:
    """Channels normalized together are removed together, so that the statistics of other groups stay the same."""
    axes = list(t.axes(node.inputs[0]))
    groups = int(attr(node, "num_groups", 1))
    parameters = [ids for v in node.inputs[1:] if v is not None for ids in t.axes(v)]
    if axes[1] is None:
        t.fix_all(parameters, f"{where(node)} normalises values that stay")
        return
    parts = axes[1].reshape(groups, -1)
    for column in range(1, parts.shape[1]):
        t.elements.unite(parts[:, 0], parts[:, column])
    each = np.ascontiguousarray(parts[:, 0])
    for ids in parameters:
        t.join(
            [axes[1] if ids is not None and len(ids) == len(axes[1]) else each, ids], f"{where(node)} has one number"
        )
    t.update_size(node, "num_groups", (groups,), 0, each)
    t.set(node.output, axes)


@transfer("LRN")
def local_response(t: Tracker, node: Node) -> None:
    """Each channel is divided by the energy of its neighbors, which removal changes."""
    axes = t.axes(node.inputs[0])
    t.approximates(axes[1], NEIGHBOURS)
    t.set(node.output, axes)


@transfer("Softmax", "LogSoftmax", "Hardmax")
def normalised(t: Tracker, node: Node) -> None:
    """The axes of the sum are fixed, as fewer terms have larger shares. Before opset 13 all axes from `axis` on."""
    axes = t.raw_axes(node.inputs[0])
    old = version_for(node) < 13
    axis = int(attr(node, "axis", 1 if old else -1)) % len(axes)
    over = axes[axis:] if old else axes[axis : axis + 1]
    t.fix_all([None if ids is None else t.ids_of(ids) for ids in over], f"{where(node)} runs over it")
    t.set(node.output, axes)


@transfer(
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"
)  # fmt: skip
def pool(t: Tracker, node: Node) -> None:
    """Positions of axes 0 and 1 stay apart; spatial axes, which the pool mixes, are fixed."""
    if any(not out.is_unused for out in node.outputs[1:]):
        raise Declined("its indices are used")
    axes = t.axes(node.inputs[0])
    t.fix_all(axes[2:], f"{where(node)} mixes it")
    t.set(node.output, (*axes[:2], *(None for _ in axes[2:])))


GROWING = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSum", "ReduceSumSquare")
"""Reductions whose result grows with the number of values."""
_ESTIMATED = (*GROWING, "ReduceMax", "ReduceMean", "ReduceMin")


@transfer(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin",
)  # fmt: skip
def reduce(t: Tracker, node: Node) -> None:
    """A statistic over channels is estimated from the kept channels (STATISTICS); if that fails, channels are fixed."""
    axes = t.axes(node.inputs[0])
    over = _reduced(node, len(axes))
    keep = bool(attr(node, "keepdims", 1))
    type = node.output.type
    estimated = node.op in _ESTIMATED and isinstance(type, TensorType) and type.dtype.is_float
    left: list[Ids | None] = []
    for axis, ids in enumerate(axes):
        if axis not in over:
            left.append(ids)
            continue
        if ids is not None and estimated:
            t.approximates(ids, STATISTICS)
            if node.op in GROWING:
                t.reductions.append(GrowingReduction(node, ids))
        else:
            t.fix(ids, f"{where(node)} runs over it")
        if keep:
            left.append(None)
    t.set(node.output, left)


def _reduced(node: Node, rank: int) -> set[int]:
    if node.op in ("ArgMax", "ArgMin"):
        return {int(attr(node, "axis", 0)) % rank}
    given = node.attrs.get("axes")
    if given is None and node.input(1) is not None:
        given = integers(node.inputs[1])
        if given is None:
            raise Declined("its axes are computed")
    if not given:
        return set() if attr(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {int(axis) % rank for axis in given}


@transfer("QuantizeLinear", "DequantizeLinear")
def quantize(t: Tracker, node: Node) -> None:
    """Scale and zero point are one number a tensor, or one a position of `axis`."""
    axes = list(t.axes(node.inputs[0]))
    parameters = [v for v in node.inputs[1:] if v is not None]
    ranks = {len(t.axes(v)) for v in parameters}
    if attr(node, "block_size", 0) or max(ranks) > 1:
        raise Declined("its scales are blockwise")
    axis = int(attr(node, "axis", 1))
    along = [ids for v in parameters for ids in t.axes(v) if ids is not None]
    if along:
        axes[axis] = t.join([axes[axis], *along], f"{where(node)} has scales that stay")
    t.set(node.output, axes)
