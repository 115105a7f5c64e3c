"""Constants in float16: range checks, and masks beyond the range."""

from __future__ import annotations

import numpy as np

from ...analysis.operands import MOVES, POINTWISE
from ...ir import Array, Constant, Graph, Node, Value
from .slots import is_float

LARGEST = 65504.0
"""The largest finite float16 (IEEE 754-2019, binary16)."""
SMALLEST_NORMAL = 2.0**-14
"""The smallest float16 with all its 11 bits."""
MASK = -LARGEST
"""Replaces masks beyond the format: its exponential is zero, and added scores up to 16 vanish (the spacing is 32), so
that a fully masked row stays uniform, as with the largest float32.
"""
_STEPS = 16
"""The most operators between a mask and its Softmax: exporters write up to nine."""
_THROUGH = MOVES | frozenset(POINTWISE) | frozenset(("Add", "Sub", "Mul", "Div", "Where", "Min", "Max", "Cast"))


def halved(array: Array) -> Array:
    """The array in float16, rounded to nearest; elements beyond the range become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(np.float16)


def why_not_half(constant: Constant) -> str:
    """Why a constant cannot be float16, "" where it can: an element is too large, or all are below the normal range."""
    array = constant.array()
    if array.size == 0:
        return ""
    sizes = np.abs(array[np.isfinite(array)])
    if sizes.size == 0:
        return ""
    if sizes.max() > LARGEST:
        return f"a constant of {sizes.max():.3g} is beyond float16"
    if 0.0 < sizes.max() < SMALLEST_NORMAL:
        return f"a constant of {sizes.max():.3g} is too small for float16"
    return ""


def clamp_masks(graph: Graph) -> int:
    """Replace constants beyond float16 that only mask a Softmax by `MASK`; the number of values replaced.

    softmax(x + m) = softmax(x + MASK) where m is so small that its exponential is zero; a bound of Clip, Min or Max
    beyond the format is no bound and needs no change.
    """
    count = 0
    for node in graph.walk():
        for slot, value in enumerate(node.inputs):
            if value is None or value.constant is None or not is_float(value) or value.constant.size == 0:
                continue
            if node.op not in _THROUGH or not _is_beyond(value.constant.array()) or not _reaches_softmax(node):
                continue
            array = value.constant.array()
            clamped = np.where(np.isfinite(array) & (array < -LARGEST), np.float32(MASK), array)
            assert node.graph is not None
            node.graph.set_input(node, slot, Value(name=value.name, constant=Constant.of(clamped.astype(np.float32))))
            count += 1
    return count


def _is_beyond(array: Array) -> bool:
    """Whether an element is finite and below float16's range, and none is above it."""
    finite = array[np.isfinite(array)]
    return bool(finite.size) and finite.min() < -LARGEST and finite.max() <= LARGEST


def _reaches_softmax(node: Node) -> bool:
    """Whether all of the node's results reach only Softmax operators, through cheap operators."""
    queue, seen, found = [(node, 0)], {node}, False
    while queue:
        current, depth = queue.pop()
        if current.op == "Softmax":
            found = True
            continue
        if current.op not in _THROUGH or depth >= _STEPS or any(v.is_result for v in current.outputs):
            return False
        for user in (user for value in current.outputs for user in value.users):
            if user not in seen:
                seen.add(user)
                queue.append((user, depth + 1))
    return found
