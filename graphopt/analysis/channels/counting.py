"""Sizes that are read and computed while the model runs: which of them count channels, and which are written down.

An integer vector is followed from Shape to the Reshape or Expand that it serves: a size that counts channels is right
by itself when they go, if it ends where they are; one that is written down is corrected. Whoever else reads the size of
an axis holds what is on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import Declined
from ...ir import Node, TensorType, Value
from ..sizes import Sizes, derive_sizes, sizes_of_constant
from .axes import Axis, Folded, Number, Place, Vector
from .elements import Ids
from .tracker import Tracker, integers

_SERVED = {("Reshape", 1), ("Expand", 1)}
_ROUTES = frozenset(("Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Identity", "Reshape"))
"""Operators that pick and move numbers of their first operand, by constants."""


def follow(t: Tracker, node: Node) -> bool:
    """Whether `node` only computes sizes from sizes; what it makes is then known. Any other reader of sizes holds what
    they count, but for those that `serve` as a shape, which look themselves."""
    if node.op == "Shape":
        t.vectors[node.output] = _shape(t, node)
        return True
    if not any(v in t.vectors for v in node.inputs if v is not None) and not _begins(node):
        return False
    made = _computed(t, node)
    if made is not None:
        t.vectors[node.output] = made
        return True
    for slot, value in enumerate(node.inputs):
        if value is not None and (node.op, slot) not in _SERVED:
            hold(t, value, f"{node.op} {node.name} reads its size".replace("  ", " "))
    return False


def _begins(node: Node) -> bool:
    """Whether sizes that are written down meet computed ones here."""
    type = node.outputs[0].type if node.op == "Concat" else None
    return isinstance(type, TensorType) and type.rank == 1 and any(integers(v) is not None for v in node.inputs)


def hold(t: Tracker, value: Value, reason: str) -> None:
    """What the numbers of a vector count stays."""
    vector = t.vectors.get(value)
    for number in () if vector is None else vector.numbers:
        t.hold_number(number, reason)


def numbers_of(t: Tracker, value: Value | None, node: Node, slot: int) -> tuple[Number, ...] | None:
    """The numbers at an input slot; None where nothing is known of them. Constants are written down there."""
    if value is None:
        return None
    vector = t.vectors.get(value)
    if vector is not None:
        return vector.numbers
    known = integers(value)
    return None if known is None else written(node, slot, known)


def written(node: Node, slot: int | str, numbers: Sequence[int]) -> tuple[Number, ...]:
    """Numbers that are written down at an input slot or attribute."""
    whole = tuple(int(n) for n in numbers)
    return tuple(Number(size, place=Place(node, slot, k, whole)) for k, size in enumerate(whole))


def settle(t: Tracker, number: Number | None, axis: Axis, stays: bool) -> None:
    """A size that is asked for has what is on `axis` to count: correct it, or see that it is right by itself.

    `stays`: the axis is that of the operand at the same place, which a zero copies. Declined where neither can be.
    """
    if axis is None:
        if number is not None:
            t.hold_number(number, "a size that is read is that of an axis which stays")
        return
    if number is None:
        raise Declined("a size that would change is computed")
    if number.counts is not None and t.same(number.counts, axis):
        return
    if number.place is not None and number.size is not None:
        _correct(t, number.place, int(number.size), axis, stays)
        return
    parts = [p for p in number.factors if p.place is not None and p.size == len(t.ids_of(axis))]
    others = [p for p in number.factors if p not in parts]
    if len(parts) != 1 or any(p.counts is not None for p in others):
        t.hold_number(number, "a size that is read is that of another axis")
        raise Declined("a size that would change is computed")
    place = parts[0].place
    assert place is not None
    t.resize(place.node, place.slot, place.vector, place.index, t.ids_of(axis))


def _correct(t: Tracker, place: Place, size: int, axis: Ids | Folded, stays: bool) -> None:
    if size < 0 or (size == 0 and stays):
        return
    if isinstance(axis, Folded):
        raise Declined("a size that would change is computed")
    t.resize(place.node, place.slot, place.vector, place.index, axis)


def _shape(t: Tracker, node: Node) -> Vector:
    x = node.inputs[0]
    assert x is not None
    axes = t.whole(x)
    numbers = tuple(Number(t.size(x, k), axis) for k, axis in enumerate(axes))
    return Vector(numbers[slice(node.attrs.get("start"), node.attrs.get("end"))])


def _computed(t: Tracker, node: Node) -> Vector | None:
    """What `node` makes of followed vectors; None where that is more than picking, joining and multiplying."""
    if len(node.outputs) != 1 or node.domain:
        return None
    if node.op == "Concat":
        return _joined(t, node)
    if node.op == "Mul":
        return _product(t, node)
    if node.op not in _ROUTES or node.inputs[0] not in t.vectors:
        return None
    data = t.vectors[node.inputs[0]]
    tokens = tuple(str(k) for k in range(len(data.numbers)))

    def of(value: Value | None) -> Sizes | None:
        if value is node.inputs[0]:
            return Sizes(tokens, data.scalar)
        return None if value is None or value.constant is None else sizes_of_constant(value.constant)

    made = derive_sizes(node, of)
    if made is None or not all(isinstance(d, str) for d in made.dims):
        return None
    return Vector(tuple(data.numbers[int(d)] for d in made.dims if isinstance(d, str)), made.scalar)


def _joined(t: Tracker, node: Node) -> Vector | None:
    numbers: list[Number] = []
    for slot, value in enumerate(node.inputs):
        found = numbers_of(t, value, node, slot)
        if found is None:
            count = t.sizes(value)[0] if value is not None and len(t.axes(value)) == 1 else None
            if not isinstance(count, int):
                return None
            found = (Number(None),) * count
        numbers.extend(found)
    return Vector(tuple(numbers))


def _product(t: Tracker, node: Node) -> Vector | None:
    sides = [numbers_of(t, value, node, slot) for slot, value in enumerate(node.inputs)]
    a, b = sides
    if a is None or b is None or len(a) != 1 or len(b) != 1:
        return None
    scalar = all(t.vectors[v].scalar if v in t.vectors else _is_scalar(v) for v in node.inputs if v is not None)
    factors = tuple(f for side in (a[0], b[0]) for f in (side.factors or (side,)))
    return Vector((replace(Number(None), factors=factors),), scalar)


def _is_scalar(value: Value) -> bool:
    return value.constant is not None and value.constant.shape == ()
