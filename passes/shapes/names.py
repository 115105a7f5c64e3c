"""Rename sizes that shape inference leaves open to the sizes that they provably equal.

Inference gives every unknown size its own name. Equal names mean equal sizes, so each equation lets rules prove their
conditions: that a Reshape splits the last axis alone, that a mask has the shape of the scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce

from ...analysis import Sizes, derive_sizes, sizes_of_constant
from ...analysis.operands import integers
from ...ir import Dim, Graph, Node, TensorType, Value
from ...ops import attr, total
from ...pipeline.passes import graph_pass

Shape = tuple[Dim, ...]
_BROADCASTS = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater",
        "GreaterOrEqual", "Max", "Min", "Sum", "Mean", "Mod", "PRelu",
    )
)  # fmt: skip


@graph_pass("name-sizes")
def name_sizes(graph: Graph) -> int:
    """n = m, for sizes n that are computed from others; types become more precise, no node changes."""
    names = _Names()
    for node in graph.snapshot():
        names.learn(node)
    if names.equal:
        for inner in graph.graphs():
            for node in inner.snapshot():
                for value in node.outputs:
                    names.rename(value)
    return 0


class _Names:
    """Equations between named sizes: `equal` maps a name to a size, `prefixes` the length of x[:n] to n."""

    def __init__(self) -> None:
        self.equal: dict[str, int | str] = {}
        self.facts: dict[Value, Sizes] = {}
        self.prefixes: dict[str, Dim] = {}  # min(L, n) for a constant L > 1: equal to n wherever both broadcast

    def learn(self, node: Node) -> None:
        """Derive equations from the result of one node."""
        sizes = None if node.domain else derive_sizes(node, self.of)
        if sizes is not None:
            self.facts[node.output] = sizes
        learn = _TABLE.get(node.op)
        inferred = self.shape(node.outputs[0]) if len(node.outputs) == 1 else None
        if inferred is None or all(isinstance(dim, int) for dim in inferred):
            return
        derived = _broadcast(node, self) if node.op in _BROADCASTS else None if learn is None else learn(node, self)
        if derived is not None and len(derived) == len(inferred):
            for dim, known in zip(inferred, derived):
                self.equate(dim, known)

    def equate(self, dim: Dim, known: Dim) -> None:
        """Record that `dim`, a name given by inference, equals `known`."""
        dim, known = self.resolve(dim), self.resolve(known)
        if isinstance(dim, str) and known is not None and dim != known:
            self.equal[dim] = known

    def resolve(self, dim: Dim) -> Dim:
        """The name or number at the end of a chain of equations."""
        for _ in range(64):  # guards against cycles of names
            if not isinstance(dim, str) or dim not in self.equal:
                break
            dim = self.equal[dim]
        return dim

    def of(self, value: Value | None) -> Sizes | None:
        """The sizes stored as a value's elements."""
        if value is None:
            return None
        return self.facts.get(value) if value.constant is None else sizes_of_constant(value.constant)

    def vector(self, value: Value | None) -> Shape | None:
        """The sizes stored in a value, by their resolved names."""
        sizes = self.of(value)
        return None if sizes is None else tuple(self.resolve(dim) for dim in sizes.dims)

    def shape(self, value: Value | None) -> Shape | None:
        """The shape of a tensor, by the resolved names of its sizes."""
        if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
            return None
        return tuple(self.resolve(dim) for dim in value.type.shape)

    def rename(self, value: Value) -> None:
        """Write resolved names into the type of a value."""
        shape = self.shape(value)
        if shape is not None and isinstance(value.type, TensorType) and shape != value.type.shape:
            value.type = TensorType(value.type.dtype, shape)

    def join(self, dims: Sequence[Dim]) -> Dim:
        """The size that broadcasting gives; None where it is unknown."""
        wide = {dim for dim in dims if dim != 1}
        if None in wide:
            return None
        for dim in tuple(wide):
            whole = self.prefixes.get(dim) if isinstance(dim, str) else None
            if whole in wide and whole != dim and isinstance(dim, str):
                self.equate(dim, whole)
                wide.discard(dim)
        numbers = [dim for dim in wide if isinstance(dim, int)]
        if numbers:
            return numbers[0]
        return next(iter(wide), 1) if len(wide) <= 1 else None


def _broadcast(node: Node, names: _Names) -> Shape | None:
    shapes = [names.shape(v) for v in node.inputs]
    known = [s for s in shapes if s is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(map(len, known))
    wide: list[Shape] = [(1,) * (rank - len(s)) + s for s in known]
    return tuple(names.join(dims) for dims in zip(*wide))


def _matmul(node: Node, names: _Names) -> Shape | None:
    a, b = (names.shape(v) for v in node.inputs)
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    names.equate(b[-2], a[-1]) if isinstance(b[-2], str) else names.equate(a[-1], b[-2])
    rank = max(len(a), len(b))
    wide = [(1,) * (rank - len(s)) + s for s in (a, b)]
    return (*(names.join(dims) for dims in zip(*(s[:-2] for s in wide))), a[-2], b[-1])


def _reshape(node: Node, names: _Names) -> Shape | None:
    """The single open size, from the number of elements; all other named sizes must occur before and after."""
    before, after = names.shape(node.inputs[0]), names.shape(node.output)
    if before is None or after is None or None in before or before.count(0) or after.count(0):
        return None
    left = Counter(d for d in before if isinstance(d, str))
    open_axes = [i for i, d in enumerate(after) if d is None or (isinstance(d, str) and not left[d])]
    if len(open_axes) != 1:
        return None
    rest = [d for i, d in enumerate(after) if i != open_axes[0]]
    left.subtract(d for d in rest if isinstance(d, str))
    over = [name for name, count in left.items() for _ in range(count)]
    if any(count < 0 for count in left.values()):
        return None
    numbers = [math.prod(d for d in dims if isinstance(d, int)) for dims in (before, rest)]
    if numbers[0] % numbers[1]:
        return None
    ratio = numbers[0] // numbers[1]
    size: Dim = ratio if not over else over[0] if len(over) == 1 and ratio == 1 else None
    return tuple(size if i == open_axes[0] else d for i, d in enumerate(after))


def _slice(node: Node, names: _Names) -> Shape | None:
    """Axes that are not sliced keep their size; a slice from 0 to a size n of a constant length is a prefix."""
    before, after = names.shape(node.inputs[0]), names.shape(node.output)
    axes, starts, steps = (integers(node, slot, name) for slot, name in ((3, "axes"), (1, "starts"), (4, "steps")))
    if before is None or after is None or axes is None or len(before) != len(after):
        return None
    sliced = {axis % len(before) for axis in axes}
    if len(axes) == 1 and starts == [0] and (node.input(4) is None or steps == [1]):
        (axis,), ends = sliced, names.vector(node.input(2))
        whole, length = before[axis], after[axis]
        if ends is not None and len(ends) == 1 and isinstance(length, str) and isinstance(whole, int) and whole > 1:
            names.prefixes[length] = ends[0]
    return tuple(None if axis in sliced else dim for axis, dim in enumerate(before))


def _range(node: Node, names: _Names) -> Shape | None:
    start, limit, step = (names.vector(value) for value in node.inputs)
    return limit if start == (0,) and step == (1,) and limit is not None and len(limit) == 1 else None


def _expand(node: Node, names: _Names) -> Shape | None:
    before, wanted = names.shape(node.inputs[0]), names.vector(node.input(1))
    if before is None or wanted is None:
        return None
    rank = max(len(before), len(wanted))
    return tuple(names.join(dims) for dims in zip(*((1,) * (rank - len(s)) + s for s in (before, wanted))))


def _tile(node: Node, names: _Names) -> Shape | None:
    """An axis of size 1 gets the number of repeats; an axis repeated once keeps its size."""
    before, repeats = names.shape(node.inputs[0]), names.vector(node.input(1))
    if before is None or repeats is None or len(before) != len(repeats):
        return None
    return tuple(times if size == 1 else size if times == 1 else None for size, times in zip(before, repeats))


def _concat(node: Node, names: _Names) -> Shape | None:
    """The sizes along the axis add up; the others are equal."""
    shapes = [names.shape(value) for value in node.inputs]
    known = [shape for shape in shapes if shape]
    if len(known) != len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    axis = int(attr(node, "axis", 0)) % len(known[0])
    return tuple(reduce(total, dims) if i == axis else dims[0] for i, dims in enumerate(zip(*known)))


_TABLE: dict[str, Callable[[Node, _Names], Shape | None]] = {
    "Concat": _concat,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Expand": _expand,
    "Range": _range,
    "Tile": _tile,
}
"""For each operator, the function that derives its result's shape from named sizes."""
