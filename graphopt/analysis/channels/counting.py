"""Sizes computed at run time: which of them count channels, and which are constants.

An integer vector is followed from Shape to the Reshape or Expand that takes it as its shape: a size that counts
channels stays right when these are removed, if it becomes the size of their axis; a constant size is corrected. Any
other reader of the size of an axis fixes its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import Declined
from ...ir import Node, TensorType, Value
from ..sizes import Sizes, derive_sizes, sizes_of_constant
from .axes import Axis, Folded, Number, SizeLocation, Vector
from .elements import Ids
from .tracker import Tracker, integers

_SHAPE_OPERANDS = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Resize", 3), ("Slice", 2)}
_CARRIERS = frozenset(("Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Identity", "Reshape"))
"""Operators that select and move elements of their first operand, by constants."""


def follow_sizes(t: Tracker, node: Node) -> bool:
    """Whether `node` only computes sizes from sizes, in which case its result is recorded.

    Any other reader of a size fixes the channels it counts, except where it is a shape operand (see `reconcile`).
    """
    if node.op == "Shape":
        t.vectors[node.output] = _shape(t, node)
        return True
    if not any(v in t.vectors for v in node.inputs if v is not None) and not _joins_constant_sizes(node):
        return False
    vector = _computed(t, node)
    if vector is not None:
        t.vectors[node.output] = vector
        return True
    for slot, value in enumerate(node.inputs):
        if value is not None and (node.op, slot) not in _SHAPE_OPERANDS:
            fix_sizes(t, value, f"{node.op} {node.name} reads its size".replace("  ", " "))
    return False


def _joins_constant_sizes(node: Node) -> bool:
    """Whether a Concat joins vectors, some of them integer constants, and so presumably sizes."""
    type = node.outputs[0].type if node.op == "Concat" else None
    return isinstance(type, TensorType) and type.rank == 1 and any(integers(v) is not None for v in node.inputs)


def fix_sizes(t: Tracker, value: Value, reason: str) -> None:
    """Fix the channels whose number a vector holds."""
    vector = t.vectors.get(value)
    for number in () if vector is None else vector.numbers:
        t.fix_number(number, reason)


def numbers_of(t: Tracker, value: Value | None, node: Node, slot: int) -> tuple[Number, ...] | None:
    """The numbers at an input slot, None if unknown; a constant's numbers have this slot as their place."""
    if value is None:
        return None
    vector = t.vectors.get(value)
    if vector is not None:
        return vector.numbers
    known = integers(value)
    return None if known is None else stored(node, slot, known)


def stored(node: Node, slot: int | str, numbers: Sequence[int]) -> tuple[Number, ...]:
    """The numbers of a constant at an input slot or attribute."""
    vector = tuple(int(n) for n in numbers)
    return tuple(Number(size, place=SizeLocation(node, slot, k, vector)) for k, size in enumerate(vector))


def reconcile(t: Tracker, number: Number | None, axis: Axis, stays: bool) -> None:
    """Reconcile a shape operand with the channels on `axis`: correct a constant, accept a size that counts them.

    `stays`: the axis is the operand's axis at the same index, whose size a zero copies. Declined where neither works.
    """
    if axis is None:
        if number is not None:
            t.fix_number(number, "a size that is read is that of an axis which stays")
        return
    if number is None:
        raise Declined("a size that would change is computed")
    if number.counts is not None and t.same(number.counts, axis):
        return
    if number.place is not None and number.size is not None:
        _correct(t, number.place, int(number.size), axis, stays)
        return
    constants = [p for p in number.factors if p.place is not None and p.size == len(t.ids_of(axis))]
    others = [p for p in number.factors if p not in constants]
    if len(constants) != 1 or any(p.counts is not None for p in others):
        t.fix_number(number, "a size that is read is that of another axis")
        raise Declined("a size that would change is computed")
    place = constants[0].place
    assert place is not None
    t.update_size(place.node, place.slot, place.vector, place.index, t.ids_of(axis))


def filled(t: Tracker, number: Number) -> Axis:
    """The elements of an axis along which one value is repeated `number` times: any of them is removable.

    If `number` counts channels, these channels; if a constant stores `number`, new elements.
    """
    if isinstance(number.counts, np.ndarray):
        return number.counts
    if number.place is None or not isinstance(number.size, int) or number.size < 2:
        t.fix_number(number, "a size that is read is that of an axis which stays")
        return None
    ids, place = t.elements.fresh(number.size), number.place
    t.update_size(place.node, place.slot, place.vector, place.index, ids)
    return ids


def _correct(t: Tracker, place: SizeLocation, size: int, axis: Ids | Folded, stays: bool) -> None:
    if size < 0 or (size == 0 and stays):
        return
    if isinstance(axis, Folded):
        raise Declined("a size that would change is computed")
    t.update_size(place.node, place.slot, place.vector, place.index, axis)


def _shape(t: Tracker, node: Node) -> Vector:
    x = node.inputs[0]
    assert x is not None
    numbers = tuple(Number(t.size(x, k), axis) for k, axis in enumerate(t.raw_axes(x)))
    return Vector(numbers[slice(node.attrs.get("start"), node.attrs.get("end"))])


def _computed(t: Tracker, node: Node) -> Vector | None:
    """The result of selecting, joining or multiplying followed vectors; None for any other computation.

    `derive_sizes` moves the numbers, each as a symbol. Concat and Mul are computed here: Concat also joins vectors of
    unknown numbers, and of a product the factors are kept, not the value.
    """
    if len(node.outputs) != 1 or node.domain:
        return None
    if node.op == "Concat":
        return _joined(t, node)
    if node.op == "Mul":
        return _product(t, node)
    if node.op not in _CARRIERS or node.inputs[0] not in t.vectors:
        return None
    data = t.vectors[node.inputs[0]]
    symbols = tuple(str(k) for k in range(len(data.numbers)))

    def sizes_of(value: Value | None) -> Sizes | None:
        if value is node.inputs[0]:
            return Sizes(symbols, data.scalar)
        return None if value is None or value.constant is None else sizes_of_constant(value.constant)

    moved = derive_sizes(node, sizes_of)
    if moved is None or not all(isinstance(d, str) for d in moved.dims):
        return None
    return Vector(tuple(data.numbers[int(d)] for d in moved.dims if isinstance(d, str)), moved.scalar)


def _joined(t: Tracker, node: Node) -> Vector | None:
    joined: list[Number] = []
    for slot, value in enumerate(node.inputs):
        numbers = numbers_of(t, value, node, slot)
        if numbers is None:
            count = t.sizes(value)[0] if value is not None and len(t.axes(value)) == 1 else None
            if not isinstance(count, int):
                return None
            numbers = (Number(None),) * count
        joined.extend(numbers)
    return Vector(tuple(joined))


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
