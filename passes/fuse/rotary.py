"""Rotary position embedding (Su et al. 2021) in the spelling of exported language models.

x cos + [-x2, x1] sin = rotary(x), where x = [x1, x2] are the halves of the last axis; of some models, only of the first
elements of each head
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...ops import attr
from ...rewrite import Builder, OpPattern, any_value, constant, op, rule

_KEEPS_HALVES = ("Cos", "Sin", "Identity", "Cast")


def _halves() -> Iterator[tuple[OpPattern, OpPattern]]:
    """The ways to take the second and the first half of the last axis."""
    x, options = any_value("x"), (constant("axis", optional=True), constant("step", optional=True))
    yield (
        op.Slice(x, constant("from2"), constant("to2"), *options),
        op.Slice(x, constant("from1"), constant("to1"), *options),
    )
    split = op.Split(x, any_value("sizes", optional=True), name="split", shared=True)
    yield split.out(1), split.out(0)


def _rotations() -> Iterator[OpPattern]:
    for second, first in _halves():
        turned = op.Concat(op.Neg(second), first, name="turned")
        yield op.Add(op.Mul(any_value("x"), any_value("c")), op.Mul(turned, any_value("s")))


_SLICED, _SPLIT = _rotations()


def _width(x: Value) -> int:
    shape = x.type.shape if isinstance(x.type, TensorType) and x.type.dtype is DType.FLOAT else None
    if shape is None or len(shape) != 4 or not isinstance(shape[3], int) or shape[3] % 2:
        raise Declined("not heads of an even, known width in single precision")
    return shape[3]


def _last(node: Node, name: str = "axis") -> None:
    if int(attr(node, name, 0)) not in (-1, 3):
        raise Declined("not over the last axis")


def _sliced_width(
    x: Value, bounds: tuple[Array, ...], axis: Array | None, step: Array | None, turned: Node
) -> int:  # fmt: skip
    """D, where Slices take the two halves of the last axis; Declined otherwise."""
    width = _width(x)
    _sliced(x, bounds, axis, step, turned, width // 2)
    return width


def _sliced(
    x: Value, bounds: tuple[Array, ...], axis: Array | None, step: Array | None, joined: Node, size: int
) -> None:  # fmt: skip
    """Declined unless Slices take the first `size` elements of the last axis and the rest, joined there again."""
    _last(joined)
    limits = [v.reshape(-1).tolist() for v in bounds]
    if axis is None or axis.reshape(-1).tolist() not in ([-1], [3]) or (step is not None and (step != 1).any()):
        raise Declined("not over the last axis")
    if limits[:3] != [[0], [size], [size]] or limits[3][0] < _width(x):
        raise Declined("not the two parts")


def _split_width(x: Value, split: Node, turned: Node) -> int:
    """D, where Split takes the two halves of the last axis; Declined otherwise."""
    width = _width(x)
    _last(turned)
    _last(split)
    halves = [v.type.shape for v in split.outputs if isinstance(v.type, TensorType)]
    if len(halves) != 2 or any(shape is None or shape[-1] != width // 2 for shape in halves):
        raise Declined("not the two halves")
    return width


@rule(_SLICED, min_opset=23)
def fuse_rotary_rows(
    build: Builder, x: Value, c: Value, s: Value, from1: Array, to1: Array, from2: Array, to2: Array,
    axis: Array | None, step: Array | None, turned: Node,
) -> Value:  # fmt: skip
    """x cos + [-x2, x1] sin = rotary(x), the halves taken by Slice; cosine and sine of each token, f32[B,S,D]"""
    width = _sliced_width(x, (from1, to1, from2, to2), axis, step, turned)
    return build.RotaryEmbedding(x, *(_rows(build, x, value, width) for value in (c, s)))


@rule(_SPLIT, min_opset=23)
def fuse_split_rotary_rows(build: Builder, x: Value, c: Value, s: Value, split: Node, turned: Node) -> Value:
    """x cos + [-x2, x1] sin = rotary(x), the halves taken by Split; cosine and sine of each token, f32[B,S,D]"""
    width = _split_width(x, split, turned)
    return build.RotaryEmbedding(x, *(_rows(build, x, value, width) for value in (c, s)))


@rule(_SLICED, min_opset=10)
def fuse_rotary(
    build: Builder, x: Value, c: Value, s: Value, from1: Array, to1: Array, from2: Array, to2: Array,
    axis: Array | None, step: Array | None, turned: Node,
) -> Value:  # fmt: skip
    """x cos + [-x2, x1] sin = rotary(x), the halves taken by Slice"""
    return _rotary(build, x, c, s, _sliced_width(x, (from1, to1, from2, to2), axis, step, turned))


@rule(_SPLIT, min_opset=10)
def fuse_split_rotary(build: Builder, x: Value, c: Value, s: Value, split: Node, turned: Node) -> Value:
    """x cos + [-x2, x1] sin = rotary(x), the halves taken by Split"""
    return _rotary(build, x, c, s, _split_width(x, split, turned))


def _partial() -> Iterator[OpPattern]:
    for rest, first in _halves():
        turned = op.RotaryEmbedding(first, any_value(), any_value(), name="turned")
        yield op.Concat(turned, rest, name="joined")


_PARTIAL, _PARTIAL_SPLIT = _partial()


@rule(_PARTIAL, min_opset=23)
def extend_rotary(
    build: Builder, x: Value, from1: Array, to1: Array, from2: Array, to2: Array,
    axis: Array | None, step: Array | None, turned: Node, joined: Node,
) -> Value:  # fmt: skip
    """[rotary(x1), x2] = rotary(x) of the first elements, x1 of each head; the parts taken by Slice"""
    size = _turned_size(turned)
    _sliced(x, (from1, to1, from2, to2), axis, step, joined, size)
    return _of_first(build, x, turned, size)


@rule(_PARTIAL_SPLIT, min_opset=23)
def extend_split_rotary(build: Builder, x: Value, split: Node, turned: Node, joined: Node) -> Value:
    """[rotary(x1), x2] = rotary(x) of the first elements, x1 of each head; the parts taken by Split"""
    _last(joined)
    _last(split)
    if _width(x) < _turned_size(turned) or len(split.outputs) != 2:
        raise Declined("other parts than two")
    return _of_first(build, x, turned, _turned_size(turned))


def _turned_size(turned: Node) -> int:
    """The elements of a head that are turned, all of those of the operand f32[B,H,S,D]."""
    x = turned.inputs[0]
    if x is None or attr(turned, "rotary_embedding_dim", 0):
        raise Declined("only a part is turned already")
    return _width(x)


def _of_first(build: Builder, x: Value, turned: Node, size: int) -> Value:
    return build.copy(turned, [x, *turned.inputs[1:]], rotary_embedding_dim=size)


def _rows(build: Builder, x: Value, value: Value, width: int) -> Value:
    """The first halves of cosine or sine, f32[B,S,D/2], of f32[B,1,S,D]."""
    whole, heads = _unlifted(value), x.type.shape if isinstance(x.type, TensorType) else None
    shape = whole.type.shape if isinstance(whole.type, TensorType) else None
    if heads is None or shape is None or None in heads or shape != (heads[0], heads[2], width):
        raise Declined("cosine and sine are not one row for each token")
    return _half(build, whole)


def _rotary(build: Builder, x: Value, c: Value, s: Value, width: int) -> Value:
    """com.microsoft::RotaryEmbedding with tables of the first halves; positions count from 0 if the model has none."""
    caches, indices = zip(*(_cache(build, x, value, width) for value in (c, s)))
    if indices[0] is not indices[1]:
        raise Declined("cosine and sine are of other positions")
    positions = np.zeros(1, np.int64) if indices[0] is None else indices[0]
    return build.node("com.microsoft::RotaryEmbedding", x, positions, *caches)


def _cache(build: Builder, x: Value, value: Value, width: int) -> tuple[Value, Value | None]:
    """The table of cosines or sines, f32[positions,D/2], and the positions i64[B,S]; None where these are its rows."""
    if value.constant is None:
        return _table(build, _unlifted(value), width)
    array, length = value.constant.array(), x.type.shape[2] if isinstance(x.type, TensorType) and x.type.shape else None
    if array.ndim < 2 or array.shape != (*(1,) * (array.ndim - 2), length, width):
        raise Declined("cosine and sine are not the same for all heads")
    return _first_half(build, array.reshape(array.shape[-2:]), width), None


def _first_half(build: Builder, table: Array, width: int) -> Value:
    if not np.array_equal(table[:, : width // 2], table[:, width // 2 :]):
        raise Declined("the halves of the table differ")
    return build.constant(np.ascontiguousarray(table[:, : width // 2]))


def _unlifted(value: Value) -> Value:
    """The operand of unsqueeze(t, 1), t f32[…,S,D]."""
    node = value.producer
    axes = None if node is None or node.op != "Unsqueeze" else node.constant(1)
    listed = axes.array().tolist() if axes is not None else list(node.attrs.get("axes", ())) if node is not None else []
    if node is None or node.op != "Unsqueeze" or listed not in ([1], [-3]) or node.inputs[0] is None:
        raise Declined("cosine and sine are not the same for all heads")
    return node.inputs[0]


def _table(build: Builder, value: Value, width: int) -> tuple[Value, Value | None]:
    """As `_cache`, for a table that the model gathers from or computes."""
    node, shape = value.producer, value.type.shape if isinstance(value.type, TensorType) else None
    if node is not None and node.op == "Gather" and node.constant(0) is not None and node.inputs[1] is not None:
        table = node.constant(0)
        index = node.inputs[1].type
        array = None if table is None else table.array()
        if array is None or array.ndim != 2 or attr(node, "axis", 0) or array.shape[1] != width:
            raise Declined("not a table of positions")
        if not isinstance(index, TensorType) or index.rank != 2 or index.dtype is not DType.INT64:
            raise Declined("the positions are not one for each token")
        return _first_half(build, array, width), node.inputs[1]
    if shape is None or len(shape) != 3 or shape[0] != 1:
        raise Declined("the positions may differ from row to row")
    half = _half(build, value)
    return build.Reshape(half, np.array([-1, width // 2], np.int64)), None


def _half(build: Builder, value: Value) -> Value:
    """The first half of the last axis of f([t, t]), which is f(t)."""
    node = value.producer
    if node is not None and node.op == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
        rank = value.type.rank if isinstance(value.type, TensorType) else None
        if rank is not None and int(attr(node, "axis", 0)) in (-1, rank - 1) and node.inputs[0] is not None:
            return node.inputs[0]
    if node is not None and node.op == "Mul":
        for slot in (0, 1):
            factor, other = node.constant(slot), node.inputs[1 - slot]
            if factor is not None and factor.size == 1 and len(factor.shape) < 2 and other is not None:
                return build.Mul(_half(build, other), node.inputs[slot])
    if node is None or node.op not in _KEEPS_HALVES or node.inputs[0] is None:
        raise Declined("the halves of cosine or sine may differ")
    return build.copy(node, [_half(build, node.inputs[0]), *node.inputs[1:]])
