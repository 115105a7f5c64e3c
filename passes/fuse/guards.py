"""Guards of fusions: constants that are one number, limits of Clip, axes of reductions. Declined where they fail."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, Value
from ...ops import attr, version_for
from ...rewrite import Builder
from ..fold.channels import floating


def number(array: Array | None, default: float) -> float:
    """The number in a constant of one element, `default` for None; Declined for more elements."""
    if array is None:
        return default
    if array.size != 1:
        raise Declined("a constant is not one number")
    return float(array.reshape(()))


def factor(node: Node, c: Array) -> float:
    """The number that a Mul or Div by the constant `c` multiplies with; Declined for c / x, and for several numbers."""
    value = number(c, 1.0)
    if node.op == "Mul":
        return value
    if node.constant(1) is None or value == 0:
        raise Declined("the constant is divided")
    return 1 / value


def close(a: float, b: float, rtol: float = 1e-5) -> bool:
    """Equal up to the number of digits that exporters write."""
    return abs(a - b) <= rtol * abs(b)


_KEEPS = frozenset((
    "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Where",
))  # fmt: skip
"""Operators that may pass an infinite element of an operand unchanged to their result."""


def finite(value: Value) -> None:
    """Declined where an infinite constant reaches a value: a pad before a pool, or a masked element."""
    seen, stack = {value}, [value]
    while stack:
        one = stack.pop()
        if one.constant is not None and one.constant.dtype.is_float and not np.isfinite(one.constant.array()).all():
            raise Declined("a value may be infinite")
        node = one.producer
        reached = [v for v in node.inputs if v is not None] if node is not None and node.op in _KEEPS else []
        stack += [v for v in reached if v not in seen]
        seen.update(reached)


def clip_limits(clip: Node, low: Array | None, high: Array | None) -> tuple[float, float]:
    """The limits of a Clip with constant operands `low` and `high`; infinite where one is missing."""
    if version_for(clip) < 11:
        return float(clip.attrs.get("min", -np.inf)), float(clip.attrs.get("max", np.inf))
    return number(low, -np.inf), number(high, np.inf)


def clip(build: Builder, x: Value, low: float, high: float) -> Value:
    """Clip with constant limits, as attributes or inputs by the opset."""
    limits = [None if np.isinf(v) else v for v in (low, high)]
    if build.opset < 11:
        return build.Clip(x, min=limits[0], max=limits[1])
    dtype = floating(x).dtype.numpy
    return build.Clip(x, *(None if v is None else np.array(v, dtype) for v in limits))


def reduced_axes(node: Node, rank: int) -> tuple[int, ...]:
    """The axes that a reduction goes over, counted from the front, in order; Declined where they are unknown."""
    axes = node.attrs.get("axes")
    if axes is None and node.input(1) is not None:
        known = node.constant(1)
        if known is None:
            raise Declined("the axes are not constant")
        axes = known.array().reshape(-1).tolist()
    if axes is None or len(axes) == 0:
        if attr(node, "noop_with_empty_axes", 0):
            raise Declined("nothing is reduced")
        axes = range(rank)
    if not all(-rank <= int(a) < rank for a in axes):
        raise Declined("the reduction is of a value with other axes")
    return tuple(sorted(int(a) % rank for a in axes))


def same_axes(rank: int, *reductions: Node) -> tuple[int, ...]:
    """The axes that all `reductions` go over and keep with size 1; Declined where they differ."""
    axes = {reduced_axes(node, rank) for node in reductions}
    if len(axes) != 1:
        raise Declined("the reductions go over different axes")
    if not all(attr(node, "keepdims", 1) for node in reductions):
        raise Declined("a reduced axis is not kept")
    return axes.pop()
