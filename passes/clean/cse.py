"""Common subexpressions: nodes with equal operators, attributes and operands become one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ...ir import Constant, Graph, Node, Opaque
from ...ops import is_deterministic
from ...pipeline.passes import graph_pass
from ...rewrite import Context, origins_of
from ...rewrite.pattern import COMMUTATIVE

_LARGEST = 4096  # the most elements of a compared tensor attribute: a bound on time; exporters repeat small ones


@graph_pass("merge-common-subexpressions")
def merge_common_subexpressions(graph: Graph, context: Context) -> int:
    """f(x) … f(x) = let y = f(x) in y … y, also for an f(x) in a nested graph that the outer one computes before it."""
    return _merge(graph, {}, context)


def _merge(graph: Graph, seen: dict[Hashable, Node], context: Context) -> int:
    changes = 0
    here: list[Hashable] = []
    for node in graph:
        key = _key(node)
        known = None if key is None else seen.get(key)
        if known is not None and _may_stand_for(known, node) and context.commit("merge-common-subexpression", node):
            for old, new in zip(node.outputs, known.outputs):
                graph.replace_uses(old, new)
            known.origins = origins_of(known, node)
            graph.erase(node)
            changes += 1
            continue
        for nested in node.subgraphs:
            changes += _merge(nested, seen, context)
        if key is not None and known is None:
            seen[key] = node
            here.append(key)
    for key in here:
        del seen[key]
    return changes


def _key(node: Node) -> Hashable | None:
    """A key that is equal for nodes with equal results; None for nodes that must not be merged."""
    if node.subgraphs or not is_deterministic(node):
        return None
    attrs = []
    for name in sorted(node.attrs):
        value = _attribute(node.attrs[name])
        if value is None:
            return None
        attrs.append((name, value))
    inputs = node.inputs
    if node.op in COMMUTATIVE and len(inputs) == 2:
        inputs = tuple(sorted(inputs, key=id))
    return node.op, node.overload, inputs, len(node.outputs), tuple(attrs)


def _attribute(value: Any) -> Hashable | None:
    if isinstance(value, Opaque):
        return None
    if isinstance(value, Constant):
        if value.size > _LARGEST:
            return None
        array = np.ascontiguousarray(value.array())
        content: Hashable = tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()
        return value.dtype, value.shape, content
    if isinstance(value, tuple):
        return tuple((type(item).__name__, repr(item)) for item in value)
    return type(value).__name__, repr(value)


def _may_stand_for(known: Node, node: Node) -> bool:
    """Whether `known` may replace `node`: not if both yield graph outputs, each of which needs a node for its name."""
    return not any(a.is_result and b.is_result for a, b in zip(known.outputs, node.outputs))
