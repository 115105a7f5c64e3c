"""Operators that move elements: reshapes, transposes, slices, gathers, pads, and reductions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import Declined
from ...ir import Dim, DType, TensorType, Value
from ..sketch import FLOATS, INTEGERS, WIDE, Sketch

ANY = (*FLOATS, *INTEGERS, DType.BOOL)
_END = (1 << 63) - 1  # Slice's end beyond every axis


def transpose(s: Sketch) -> None:
    """Transpose, once, twice, or there and back around an element-wise operator"""
    x = s.pick(*ANY, ranks=(1, 2, 3, 4))
    rank = s.rank(x)
    perm = _permutation(s, rank)
    y = s.node("Transpose", x, perm=perm)
    if s.chance(0.3):
        y = s.node(s.choose(("Relu", "Identity", "Neg")), y) if s.dtype(y) in WIDE else y
    if s.chance(0.4):
        back = tuple(int(i) for i in np.argsort(perm))
        s.node("Transpose", y, perm=back if s.chance(0.6) else _permutation(s, rank))


def _permutation(s: Sketch, rank: int) -> tuple[int, ...]:
    if rank == 4 and s.chance(0.5):
        return s.choose(((0, 2, 3, 1), (0, 3, 1, 2)))
    left, perm = list(range(rank)), []
    while left:
        perm.append(left.pop(s.integer(0, len(left) - 1)))
    return tuple(perm)


def target_sizes(s: Sketch, shape: Sequence[Dim]) -> list[Dim]:
    """Another shape of the same elements: axes split or joined; symbolic sizes stay by themselves."""
    sizes = list(shape)
    for _ in range(s.integer(1, 2)):
        joins = [i for i in range(len(sizes) - 1) if isinstance(sizes[i], int) and isinstance(sizes[i + 1], int)]
        splits = [(i, d) for i, d in enumerate(sizes) if isinstance(d, int) and d > 3 and d % 2 == 0]
        if splits and len(sizes) < 5 and s.chance(0.5):
            i, d = s.choose(splits)
            sizes[i : i + 1] = s.choose(([2, d // 2], [d // 2, 2]))
        elif joins:
            i = s.choose(joins)
            a, b = sizes[i], sizes[i + 1]
            if isinstance(a, int) and isinstance(b, int):
                sizes[i : i + 2] = [a * b]
    return sizes


def reshape_operand(s: Sketch, before: Sequence[Dim], sizes: Sequence[Dim]) -> tuple[int, ...]:
    """Sizes as Reshape takes them: 0 to copy, -1 for one to infer; Declined if two sizes would have to be inferred."""
    operand: list[int] = []
    for i, d in enumerate(sizes):
        copied = i < len(before) and before[i] == d
        if copied and (not isinstance(d, int) or s.chance(0.3)):
            operand.append(0)
        elif isinstance(d, int):
            operand.append(d)
        elif -1 not in operand:
            operand.append(-1)
        else:
            raise Declined("two sizes would be left to infer")
    if -1 not in operand and operand and s.chance(0.4):
        operand[s.integer(0, len(operand) - 1)] = -1
    return tuple(operand)


def reshape(s: Sketch) -> None:
    """Reshape, once or twice in a row, or to the shape that the value has"""
    x = s.pick(*ANY, ranks=(1, 2, 3, 4, 5))
    for _ in range(s.integer(1, 2)):
        before = s.shape(x)
        sizes = target_sizes(s, before) if s.chance(0.8) else list(before)
        x = s.node("Reshape", x, s.ints(*reshape_operand(s, before, sizes)))
        x.type = TensorType(s.dtype(x), tuple(sizes))


def flatten(s: Sketch) -> None:
    """Flatten at any axis whose sides keep at most one symbolic size each"""
    x = s.pick(*ANY, ranks=(2, 3, 4))
    axis = s.integer(0, s.rank(x))
    s.node("Flatten", x, axis=axis if s.chance(0.7) else axis - s.rank(x))


def squeeze(s: Sketch) -> None:
    """Unsqueeze, alone, before a Squeeze or before another Unsqueeze"""
    x = s.pick(*ANY, ranks=(0, 1, 2, 3))
    rank = s.rank(x)
    axes = (s.integer(0, rank),) if s.chance(0.6) else (0, rank + 1)
    y = s.with_axes("Unsqueeze", x, axes if s.chance(0.7) else tuple(a - rank - len(axes) for a in axes), 13)
    if s.chance(0.3):
        y = s.node("Relu", y) if s.dtype(y) in WIDE else y
    if s.chance(0.5):
        ones = [i for i, d in enumerate(s.shape(y)) if d == 1]
        s.with_axes("Squeeze", y, axes if s.chance(0.6) else (s.choose(ones),), 13)
    elif s.chance(0.3):
        s.with_axes("Unsqueeze", y, (0,), 13)


def unit_axis(s: Sketch) -> None:
    """An axis of size 1 inserted, the axes permuted or padded, and the axis removed or moved elsewhere"""
    x = s.pick(*WIDE, ranks=(2, 3))
    place = s.integer(0, s.rank(x))
    y = s.with_axes("Unsqueeze", x, (place,), 13)
    if s.chance(0.4):
        amounts = [0] * (2 * s.rank(y))
        axis = s.choose([i for i, d in enumerate(s.shape(y)) if isinstance(d, int) and i != place])
        amounts[axis] = amounts[axis + s.rank(y)] = 1
        s.with_axes("Squeeze", s.node("Pad", y, s.ints(*amounts)), (place,), 13)
        return
    perm = _permutation(s, s.rank(y))
    y = s.node("Transpose", y, perm=perm)
    sizes = [d for i, d in enumerate(s.shape(y)) if i != perm.index(place)]
    if s.chance(0.6):
        sizes.insert(s.integer(0, len(sizes)), 1)
    z = s.node("Reshape", y, s.ints(*reshape_operand(s, s.shape(y), sizes)))
    z.type = TensorType(s.dtype(x), tuple(sizes))


def open_reshapes(s: Sketch) -> None:
    """Two Reshapes in a row, the size between them unknown, perhaps of a value whose rank is"""
    x = s.pick(*WIDE, ranks=(2, 3, 4), where=lambda v: isinstance(s.shape(v)[0], str))
    size = s.size(x, -1)
    if size > 1 and s.dtype(x) is DType.FLOAT and s.chance(0.4):  # the first size may be 1
        y = s.node("Softmax", s.node("Squeeze", x), axis=-1)
        s.node("Reshape", s.node("Reshape", y, s.ints(-1, size)), s.ints(*s.choose(((-1,), (1, -1, size)))))
        return
    y = s.node("Reshape", x, s.ints(-1, size))
    if s.chance(0.4):
        y = s.node(s.choose(("Relu", "Tanh")), y)
    s.node("Reshape", y, s.ints(*s.choose(((-1,), (-1, size, 1), (1, -1, size)))))


def slices(s: Sketch) -> None:
    """Slice along an axis, in steps forwards or backwards, also of the whole axis; and slices of slices"""
    x = s.pick(*ANY, ranks=(1, 2, 3, 4))
    for _ in range(s.integer(1, 2)):
        axis = s.integer(0, s.rank(x) - 1)
        dim = s.shape(x)[axis]
        if not isinstance(dim, int):
            x = _slice(s, x, [0], [_END], [axis], [1])
            continue
        start = s.integer(0, max(dim - 1, 0))
        end = s.choose((_END, dim, min(start + 2, dim), -1 if start < dim - 1 else dim))
        step = s.choose((1, 1, 2))
        if s.chance(0.15):
            x = _slice(s, x, [-1], [-dim - 1], [axis], [-1])
        else:
            x = _slice(s, x, [start if s.chance(0.7) else start - dim], [end], [axis], [step])
        if 0 in s.shape(x):
            raise Declined("nothing is left")


def _slice(s: Sketch, x: Value, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Value:
    plain = steps == [1] and s.chance(0.5)
    full = plain and axes == [0] and s.chance(0.5)
    given = [s.ints(*starts), s.ints(*ends), *([] if full else [s.ints(*axes)]), *([] if plain else [s.ints(*steps)])]
    return s.node("Slice", x, *given)


def split(s: Sketch) -> None:
    """Split, with the parts used apart, joined again, or left unused"""
    x = s.pick(*ANY, ranks=(1, 2, 3, 4))
    axis = s.integer(0, s.rank(x) - 1)
    size = s.size(x, axis)
    if size < 2:
        raise Declined("nothing to split")
    first = size // 2 if size % 2 == 0 and s.chance(0.7) else s.integer(1, size - 1)
    sizes = (first, size - first)
    if s.opset >= 13:
        parts = s.nodes("Split", x, s.ints(*sizes), outputs=2, axis=axis)
    else:
        parts = s.nodes("Split", x, outputs=2, axis=axis, split=sizes)
    if s.chance(0.3):
        s.node("Concat", *parts, axis=axis)
    elif s.chance(0.4) and s.dtype(x) in WIDE and sizes[0] == sizes[1]:
        s.node("Mul", parts[0], s.node("Sigmoid", parts[1]))


def hand_split(s: Sketch) -> None:
    """Slices or Gathers that together cover an axis, as a Split would"""
    x = s.pick(*WIDE, ranks=(2, 3, 4))
    axis = s.integer(0, s.rank(x) - 1)
    size = s.size(x, axis)
    if size % 2 or size > 8:
        raise Declined("not even")
    half = size // 2
    if s.chance(0.5):
        a = s.node("Slice", x, s.ints(0), s.ints(half), s.ints(axis))
        b = s.node("Slice", x, s.ints(half), s.ints(s.choose((_END, size))), s.ints(axis))
        s.node("Add", a, s.node("Neg", b)) if s.chance(0.5) else s.node("Concat", s.node("Neg", b), a, axis=axis)
        return
    taken = [s.node("Gather", x, s.constant(np.array(i, np.int64)), axis=axis) for i in range(size)]
    s.node("Sub", taken[0], taken[-1])


def concat(s: Sketch) -> None:
    """Concat of one to three values that agree on the other axes, and Concat of Concats"""
    x = s.pick(*ANY, ranks=(1, 2, 3, 4))
    axis = s.integer(0, s.rank(x) - 1)
    s.size(x, axis)
    others = [v for v in s.pool if v.type == x.type]
    parts = [x, *(s.choose(others) for _ in range(s.integer(0, 2)))]
    y = s.node("Concat", *parts, axis=axis if s.chance(0.7) else axis - s.rank(x))
    if s.chance(0.3):
        s.node("Concat", y, x, axis=axis)


def gather(s: Sketch) -> None:
    """Gather rows with a constant index: a number, a vector, a matrix; sometimes all of them in order"""
    x = s.pick(*ANY, ranks=(1, 2, 3, 4))
    axis = s.integer(0, s.rank(x) - 1)
    size = s.size(x, axis)
    last = size - 1
    index = s.choose((
        np.array(s.integer(0, last)), np.arange(size), np.array([last, 0]), np.array([-1]), np.array([[0, last]]),
        np.arange(size)[::-1].copy(),
    ))  # fmt: skip
    s.node("Gather", x, s.constant(index.astype(s.choose((np.int64, np.int32)))), axis=axis)


def embed(s: Sketch) -> None:
    """Gather rows of a table by integers of the pool modulo its size"""
    i = s.pick(DType.INT64, DType.INT32, ranks=(1, 2), where=lambda v: v.producer is None)
    rows = s.constant(8, s.dtype(i))
    s.node("Gather", s.weight((8, 4)), s.node("Mod", i, rows))


def pad(s: Sketch) -> None:
    """Pad with zeros, a number, reflected or edge values, perhaps by nothing; and Pad of Pad"""
    x = s.pick(*WIDE, ranks=(2, 3, 4))
    rank = s.rank(x)
    amounts = [0] * (2 * rank)
    for side in (rank - 1, 2 * rank - 1):
        amounts[side] = s.integer(0, 2)
    mode = s.choose(("constant", "constant", "reflect", "edge"))
    if mode == "reflect" and s.size(x, -1) <= 2:
        raise Declined("too small to reflect")
    number = s.constant(s.choose((0.0, 1.0)), s.dtype(x)) if mode == "constant" and s.chance(0.5) else None
    y = s.node("Pad", x, s.ints(*amounts), number, mode=mode)
    if s.chance(0.3):
        amounts = [0] * (2 * rank)
        amounts[rank - 1] = 1
        s.node("Pad", y, s.ints(*amounts), number, mode=mode)


def padded_slice(s: Sketch) -> None:
    """Pad of a Slice: one axis cut, this or another padded, perhaps on the side that is not cut"""
    x = s.pick(*WIDE, ranks=(2, 3, 4))
    rank = s.rank(x)
    known = [i for i, d in enumerate(s.shape(x)) if isinstance(d, int) and d > 1]
    axis, amounts = s.choose(known), [0] * (2 * rank)
    is_front = s.chance(0.5)
    amounts[s.choose(known) + rank * is_front] = s.integer(0, 2)
    y = _slice(s, x, [int(is_front)], [_END if is_front else s.size(x, axis) - 1], [axis], [1])
    s.node("Pad", y, s.ints(*amounts), s.constant(1.0, s.dtype(x)) if s.chance(0.3) else None)


def expand(s: Sketch) -> None:
    """Expand or Tile, often by nothing; followed by an Add that would have broadcast anyway"""
    x = s.pick(*WIDE, *INTEGERS, ranks=(1, 2, 3))
    shape = s.shape(x)
    if s.chance(0.5):
        sizes = tuple(s.choose((1, 2 if d == 1 else 1)) for d in shape)
        y = s.node("Expand", x, s.ints(*sizes) if s.chance(0.7) else s.ints(1, *sizes))
    else:
        y = s.node("Tile", x, s.ints(*(s.choose((1, 1, 2)) for _ in shape)))
    if s.chance(0.4) and s.dtype(y) in WIDE:
        s.node("Mul", y, s.weight((), s.dtype(y)))


def reduce(s: Sketch) -> None:
    """Reductions over some axes, kept or not, over axes of size 1, and of reductions"""
    op = s.choose(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceL1",
                   "ReduceProd", "ReduceLogSumExp"))  # fmt: skip
    x = s.pick(*WIDE, ranks=(1, 2, 3, 4), bound=6.0 if op in ("ReduceProd", "ReduceLogSumExp") else 100.0)
    rank = s.rank(x)
    axes: tuple[int, ...] = (s.integer(0, rank - 1),) if rank < 3 or s.chance(0.6) else (rank - 2, rank - 1)
    axes = axes if s.chance(0.7) else tuple(a - rank for a in axes)
    since = 13 if op == "ReduceSum" else 18
    y = s.with_axes(op, x, axes, since, keepdims=int(s.chance(0.6)), bound=_reduced(s, op, x, axes))
    if s.chance(0.25) and s.rank(y):
        s.with_axes(op, y, (0,), since, keepdims=int(s.chance(0.5)))


def _reduced(s: Sketch, op: str, x: Value, axes: Sequence[int]) -> float:
    bound = s.facts[x].bound
    count = 1
    for a in axes:
        dim = s.shape(x)[a]
        count *= dim if isinstance(dim, int) else 4
    return {
        "ReduceSum": bound * count, "ReduceL1": bound * count, "ReduceSumSquare": bound**2 * count,
        "ReduceL2": bound * count, "ReduceLogSumExp": bound + 4, "ReduceProd": float(max(bound, 1.0) ** min(count, 16)),
    }.get(op, bound)  # fmt: skip


def argmax(s: Sketch) -> None:
    """ArgMax of steady values"""
    x = s.pick(*WIDE, ranks=(1, 2, 3), steady=True)
    y = s.node("ArgMax", x, axis=s.rank(x) - 1, keepdims=int(s.chance(0.5)))
    s.facts[y].bound = 8.0


def depth_and_space(s: Sketch) -> None:
    """DepthToSpace, SpaceToDepth, and Resize by whole numbers"""
    x = s.pick(DType.FLOAT, ranks=(4,))
    kind = s.choose(("DepthToSpace", "SpaceToDepth", "Resize"))
    if kind == "DepthToSpace" and s.size(x, 1) % 4:
        raise Declined("too few channels")
    if kind == "SpaceToDepth" and (s.size(x, 2) % 2 or s.size(x, 3) % 2):
        raise Declined("odd sizes")
    if kind != "Resize":
        s.node(kind, x, blocksize=s.choose((2, 1)))
        return
    factor = s.choose((2.0, 1.0))
    scales = s.constant(np.array([1, 1, factor, factor], np.float32))
    s.size(x, 2), s.size(x, 3)
    s.node("Resize", x, s.constant(np.zeros(0, np.float32)), scales, mode="nearest",
           coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip


def gathered_mask(s: Sketch) -> None:
    """m[b, t] for all positions b and t, as transformers reads a mask: by pairs of them, or by places of its rows"""
    m = s.pick(*ANY, ranks=(2, 3), where=lambda v: isinstance(s.shape(v)[1], str) or s.rank(v) == 2)
    if s.rank(m) == 3:  # in a mask of open sizes, positions are counted when it runs
        m = s.node("Gather", m, s.constant(np.array(0, np.int64)), axis=2)
    (height, width), shape = s.shape(m), s.node("Shape", m)
    rows = s.with_axes("Unsqueeze", _counted(s, shape, 0, height), (1, 2, 3), 13)
    columns = s.with_axes("Unsqueeze", _counted(s, shape, 1, width), (0, 1, 2), 13)
    if s.chance(0.5):
        stride = s.node("Gather", shape, s.constant(np.array(1, np.int64)))
        places = s.node("Add", columns, s.node("Mul", rows, stride))
        places.type = TensorType(DType.INT64, (height, 1, 1, width))
        found = s.node("Gather", s.node("Flatten", m, axis=2), places, axis=0)
        found.type = TensorType(s.dtype(m), (height, 1, 1, width, 1))
        return
    sizes = s.node("Shape", s.node("Max", rows, columns))
    both = []
    for positions_of in (rows, columns):
        expanded = s.node("Expand", positions_of, sizes)
        expanded.type = TensorType(DType.INT64, (height, 1, 1, width))
        both.append(s.with_axes("Unsqueeze", expanded, (-1,), 13))
    s.node("GatherND", m, s.node("Concat", *both, axis=-1)).type = TensorType(s.dtype(m), (height, 1, 1, width))


def _counted(s: Sketch, shape: Value, axis: int, size: Dim) -> Value:
    """0, 1, … up to one of the sizes of a shape."""
    zero, one = s.constant(np.array(0, np.int64)), s.constant(np.array(1, np.int64))
    counted = s.node("Range", zero, s.node("Gather", shape, s.constant(np.array(axis, np.int64))), one)
    counted.type = TensorType(DType.INT64, (size,))
    return counted


BLOCKS = (
    (transpose, 6), (reshape, 6), (unit_axis, 4), (open_reshapes, 2), (flatten, 2), (squeeze, 4), (slices, 5),
    (split, 3), (hand_split, 2), (concat, 4), (gather, 3), (embed, 1), (pad, 3), (padded_slice, 2), (expand, 3),
    (reduce, 5), (argmax, 1), (depth_and_space, 2), (gathered_mask, 5),
)  # fmt: skip
