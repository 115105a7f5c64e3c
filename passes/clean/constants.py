"""Identical constants become one. A large tensor is read in full only where a sample of its bytes equals another's."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np

from ...ir import Array, Constant, Graph, Node, Value
from ...pipeline.passes import graph_pass
from ...rewrite import Context

_SAMPLE = 4096
"""Bytes compared first, at the beginning, middle and end: one page of a mapped file each."""

_CHUNK = 1 << 22
"""Bytes compared at a time, so that temporaries stay in the cache."""


@graph_pass("merge-identical-constants")
def merge_identical_constants(graph: Graph, context: Context) -> int:
    """c1 … c2 with the same type and bits = c1 … c1."""
    changes = 0
    for alike in _groups(graph):
        distinct: list[Value] = []
        for value in alike:
            same = next((d for d in distinct if _equal(d.constant, value.constant)), None)
            if same is None:
                distinct.append(value)
            elif context.commit("merge-constants", value.users[0]):
                graph.replace_uses(value, same)
                changes += 1
    return changes


def _groups(graph: Graph) -> Iterator[list[Value]]:
    """Groups of two or more constants of the same type and sample."""
    by_type: dict[Hashable, list[Value]] = {}
    seen: set[Value] = set()
    for inner in graph.graphs():
        for node in (*inner.snapshot(), inner.return_node):
            for value in node.inputs:
                if value is not None and value.constant is not None and value not in seen:
                    seen.add(value)
                    key = value.constant.dtype, value.constant.shape, _place(value, graph)
                    by_type.setdefault(key, []).append(value)
    for values in by_type.values():
        if len(values) < 2:
            continue
        by_sample: dict[Hashable, list[Value]] = {}
        for value in values:
            by_sample.setdefault(_sample(value.constant), []).append(value)
        yield from (alike for alike in by_sample.values() if len(alike) > 1)


def _place(value: Value, root: Graph) -> object:
    """The nested graph that a constant must stay in, None if any graph will do.

    onnxruntime accepts some constant operands of integer operators, such as weight codes, only in the reader's graph.
    """
    users = value.users
    places = {user.graph for user in users}
    if places == {root} or not any(_is_quantized(user) for user in users if user.graph is not root):
        return None
    return places.pop() if len(places) == 1 else value


def _is_quantized(node: Node) -> bool:
    return bool(node.domain) or "Linear" in node.op or "Integer" in node.op


def _sample(constant: Constant | None) -> Hashable:
    """The bytes at the beginning, middle and end of a constant; all of a small one."""
    assert constant is not None
    array = constant.array()
    if array.dtype == object:
        return tuple(array.ravel()[:_SAMPLE].tolist())
    if array.nbytes <= 3 * _SAMPLE:
        return array.tobytes()
    flat, count = array.reshape(-1), max(1, _SAMPLE // array.itemsize)
    middle = flat.size // 2
    return flat[:count].tobytes() + flat[middle : middle + count].tobytes() + flat[-count:].tobytes()


def _equal(a: Constant | None, b: Constant | None) -> bool:
    """The same bits, compared piece by piece so that mapped files are not copied."""
    assert a is not None and b is not None
    if a is b:
        return True
    first, second = a.array(), b.array()
    if first.dtype == object:
        return bool(np.array_equal(first, second))
    left, right = _bytes(first), _bytes(second)
    if left.size != right.size:
        return False
    steps = range(0, left.size, _CHUNK)
    return all(np.array_equal(left[i : i + _CHUNK], right[i : i + _CHUNK]) for i in steps)


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
