"""Two operators of a kind in a row become one: Transpose, Cast, Unsqueeze, Relu, Clip; recurrences start at zero."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, DType, Graph, Node, TensorType, Value
from ...ops import attr
from ...pipeline.passes import graph_pass, rule_pass
from ...rewrite import Builder, Context, any_value, constant, op, rule
from .casts import HOLDS


@rule(op.Transpose(op.Transpose(any_value("x"), name="first", shared=True), name="second"))
def join_transposes(build: Builder, x: Value, first: Node, second: Node) -> Value:
    """permute_q(permute_p(x)) = permute_(p q)(x)"""
    p, q = first.attrs.get("perm"), second.attrs.get("perm")
    if p is None or q is None or len(p) != len(q):
        raise Declined("a permutation is not written out")
    joined = tuple(p[i] for i in q)
    if joined == tuple(range(len(p))) and not second.output.is_result:
        return x
    return build.Transpose(x, perm=joined)


@rule(op.Cast(op.Cast(any_value("x"), name="first", shared=True), name="second"), min_opset=9)
def join_casts(build: Builder, x: Value, first: Node, second: Node) -> Value:
    """cast_c(cast_b(x)) = cast_c(x), where b holds every value of x"""
    target = second.attrs["to"]
    if not isinstance(x.type, TensorType) or DType(first.attrs["to"]) not in HOLDS.get(x.type.dtype, ()):
        raise Declined("the type between may round")
    if x.type.dtype == target and not second.output.is_result:
        return x
    return build.Cast(x, to=target)


@rule(op.Unsqueeze(op.Unsqueeze(any_value("x"), constant("inner"), shared=True), constant("outer")), min_opset=13)
def join_unsqueezes(build: Builder, x: Value, inner: Array, outer: Array) -> Value:
    """unsqueeze(unsqueeze(x, a), b) = unsqueeze(x, c), the axes a moved behind b."""
    first, second = sorted(inner.reshape(-1).tolist()), sorted(outer.reshape(-1).tolist())
    if any(axis < 0 for axis in (*first, *second)):
        raise Declined("an axis is counted from the end")
    taken, moved = set(second), []
    wanted, free, position = iter(first), 0, 0
    target = next(wanted, None)
    while target is not None:
        if position not in taken:
            if free == target:
                moved.append(position)
                target = next(wanted, None)
            free += 1
        position += 1
    return build.Unsqueeze(x, np.array(sorted((*second, *moved)), np.int64))


@rule(op.Relu(op.Relu(any_value("x"))))
def join_relus(build: Builder, x: Value) -> Value:
    """max(max(x, 0), 0) = max(x, 0)"""
    return build.Relu(x)


@rule(op.Clip(op.Clip(any_value("x"), constant("a", optional=True), constant("b", optional=True)),
              constant("c", optional=True), constant("d", optional=True)), min_opset=11)  # fmt: skip
def join_clips(build: Builder, x: Value, a: Array | None, b: Array | None, c: Array | None, d: Array | None) -> Value:
    """clip(clip(x, a, b), c, d) = clip(x, max(a, c), min(b, d)), where the limits overlap."""
    low = a if c is None else c if a is None else np.maximum(a, c)
    high = b if d is None else d if b is None else np.minimum(b, d)
    if low is not None and high is not None and not (low <= high).all():
        raise Declined("the limits do not overlap")
    return build.Clip(x, low, high)


@graph_pass("drop-zero-states")
def drop_zero_states(graph: Graph, context: Context) -> int:
    """RNN(x, h0 = 0, c0 = 0) = RNN(x): without initial states a recurrence starts at zero."""
    changes = 0
    for node in graph.walk():
        owner = node.graph
        if node.op not in ("LSTM", "GRU", "RNN") or owner is None:
            continue
        for slot in (5, 6):
            state = node.input(slot)
            if state is None or not _is_zero(state) or not context.commit("drop-zero-state", node):
                continue
            owner.set_input(node, slot, None)
            if state.producer is not None:
                owner.erase_unused(state.producer)
            changes += 1
    return changes


_FAR, _LARGEST = (16, 1 << 16)  # the most operators examined before an initial state, and its elements: bounds on time
_KEEPS_ZERO = frozenset(("Slice", "Expand", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Identity", "Tile"))


def _is_zero(value: Value) -> bool:
    """All elements are 0, whatever the shape."""
    for _ in range(_FAR):
        if value.constant is not None:
            return value.constant.size <= _LARGEST and not value.constant.array().any()
        node = value.producer
        if node is None:
            return False
        if node.op == "ConstantOfShape":
            fill = attr(node, "value")
            return fill is None or not fill.array().any()
        if node.op not in _KEEPS_ZERO or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return False


join_steps = rule_pass("join-steps", join_transposes, join_casts, join_unsqueezes, join_relus, join_clips, doc=__doc__)
