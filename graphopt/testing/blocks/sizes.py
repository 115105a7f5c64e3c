"""Arithmetic on shapes as exporters spell it: Shape, Gather, Unsqueeze, Concat, then Reshape, Expand or Slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import Declined
from ...ir import Dim, DType, TensorType, Value
from ..sketch import WIDE, Sketch
from .layout import target_sizes


def size_of(s: Sketch, x: Value, axis: int) -> Value:
    """One size of x as a vector i64[1], by Gather and Unsqueeze or by Slice."""
    shape = s.node("Shape", x)
    if s.chance(0.3):
        return s.node("Slice", shape, s.ints(axis), s.ints(axis + 1))
    if s.chance(0.2):
        return s.node("Gather", shape, s.ints(axis))
    size = s.node("Gather", shape, s.constant(np.array(axis, np.int64)))
    return s.with_axes("Unsqueeze", size, (0,), 13)


def sizes_vector(s: Sketch, x: Value, sizes: Sequence[Dim]) -> Value:
    """The sizes as a computed vector: numbers as constants or off x's shape, symbols off x's shape, perhaps one -1."""
    before, parts = s.shape(x), []
    left = s.integer(0, len(sizes) - 1) if sizes and s.chance(0.5) else -1
    for i, d in enumerate(sizes):
        if i == left:
            parts.append(s.ints(-1))
        elif d in before and (not isinstance(d, int) or s.chance(0.5)):
            parts.append(size_of(s, x, before.index(d)))
        elif isinstance(d, int):
            parts.append(_number(s, x, d))
        else:
            raise Declined("a size that x does not have")
    return s.node("Concat", *parts, axis=0)


def _number(s: Sketch, x: Value, number: int) -> Value:
    """A number as a constant, or as the product of sizes of x or of one size and a constant."""
    before = s.shape(x)
    pairs = [(i, j) for i in range(len(before)) for j in range(i) if _product(before[i], before[j]) == number]
    if pairs and s.chance(0.6):
        i, j = s.choose(pairs)
        return s.node("Mul", size_of(s, x, i), size_of(s, x, j))
    halves = [i for i, d in enumerate(before) if isinstance(d, int) and d == 2 * number]
    if halves and s.chance(0.6):
        return s.node("Div", size_of(s, x, s.choose(halves)), s.ints(2))
    return s.ints(number)


def _product(a: Dim, b: Dim) -> int | None:
    return a * b if isinstance(a, int) and isinstance(b, int) else None


def reshape(s: Sketch) -> None:
    """Reshape to sizes computed from the shape"""
    x = s.pick(*WIDE, ranks=(1, 2, 3, 4))
    sizes = target_sizes(s, s.shape(x)) if s.chance(0.8) else list(s.shape(x))
    y = s.node("Reshape", x, sizes_vector(s, x, sizes))
    y.type = TensorType(s.dtype(x), tuple(sizes))


def expand(s: Sketch) -> None:
    """Expand to the shape of another value, or ConstantOfShape of it"""
    x = s.pick(*WIDE, ranks=(1, 2, 3, 4))
    shape = s.node("Shape", x)
    if s.chance(0.5):
        y = s.node("Expand", s.weight(s.choose(((), (1,))), s.dtype(x)), shape)
    else:
        y = s.node("ConstantOfShape", shape, value=np.full(1, s.choose((0.0, 1.0)), s.dtype(x).numpy), bound=1.0)
    y.type = TensorType(s.dtype(x), s.shape(x))
    s.pool.remove(y)  # a normalization of equal elements divides by zero
    if s.chance(0.7):
        s.node(s.choose(("Add", "Mul")), x, y)


def positions(s: Sketch) -> None:
    """Range over a size, as positions to add or to gather by"""
    x = s.pick(DType.FLOAT, ranks=(2, 3))
    axis = s.integer(0, s.rank(x) - 1)
    size = s.node("Gather", s.node("Shape", x), s.constant(np.array(axis, np.int64)))
    zero, one = s.constant(np.array(0, np.int64)), s.constant(np.array(1, np.int64))
    steps = s.node("Range", zero, size, one, bound=16.0)
    steps.type = TensorType(DType.INT64, (s.shape(x)[axis],))
    if s.chance(0.5):
        y = s.node("Gather", x, steps, axis=axis)
        y.type = x.type
        return
    numbers = s.node("Cast", steps, to=int(DType.FLOAT))
    if axis == s.rank(x) - 1:
        s.node("Add", x, numbers)


def scale_by_size(s: Sketch) -> None:
    """A size, or the number of elements, as a float that scales"""
    x = s.pick(DType.FLOAT, ranks=(1, 2, 3))
    if s.chance(0.3):
        size = s.node("Size", x)
    else:
        size = s.node("Gather", s.node("Shape", x), s.constant(np.array(s.rank(x) - 1, np.int64)))
    as_float = s.node("Cast", size, to=int(DType.FLOAT), bound=64.0)
    s.node("Div", x, s.node("Sqrt", as_float) if s.chance(0.5) else as_float, bound=s.facts[x].bound)


def slice_by_size(s: Sketch) -> None:
    """Slice up to a size computed from the shape"""
    x = s.pick(*WIDE, ranks=(2, 3, 4))
    axis = s.integer(0, s.rank(x) - 1)
    end = size_of(s, x, axis)
    sizes = list(s.shape(x))
    size = sizes[axis]
    if isinstance(size, int) and size % 2 == 0 and s.chance(0.6):
        end = s.node("Div", end, s.ints(2))
        sizes[axis] = size // 2
    y = s.node("Slice", x, s.ints(0), end, s.ints(axis))
    y.type = TensorType(s.dtype(x), tuple(sizes))


BLOCKS = ((reshape, 6), (expand, 2), (positions, 2), (scale_by_size, 1), (slice_by_size, 2))
