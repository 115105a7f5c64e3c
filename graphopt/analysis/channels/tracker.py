"""The state of the channel analysis: elements on every axis, couplings, fixed positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...errors import Declined
from ...ir import Dim, Node, TensorType, Value
from .axes import Axes, Axis, Folded, Number, Vector
from .couplings import (
    ActivationProduct,
    ConstantGather,
    GrowingReduction,
    InputSelection,
    Shuffle,
    SizeUpdate,
    WeightedLayer,
)
from .elements import Elements, Ids


class Tracker:
    """The state of the analysis. Transfer functions read `axes` of operands and `set` the axes of results."""

    def __init__(self, selected: frozenset[Node] = frozenset()) -> None:
        self.selected = selected  # layers that read a selection of their inputs
        self.elements = Elements()
        self.known: dict[Value, tuple[Axis, ...]] = {}
        self.vectors: dict[Value, Vector] = {}  # integer vectors computed from shapes
        self.pinned: dict[tuple[Node, int | str, int], str] = {}  # stored sizes with a second reader: the reason
        self.location = ""  # the present node, as reasons name it
        self.static: set[Value] = set()
        self.fixed: list[tuple[Ids, str]] = []
        self.approximate: list[tuple[Ids, str]] = []
        self.outputs: list[Ids] = []
        self.inputs: list[Ids] = []
        self.layers: list[WeightedLayer] = []
        self.size_updates: dict[tuple[Node, int | str], SizeUpdate] = {}
        self.gathers: list[ConstantGather] = []
        self.shuffles: list[Shuffle] = []
        self.partitions: list[Ids] = []  # [parts, size]
        self.products: list[ActivationProduct] = []
        self.selections: list[InputSelection] = []
        self.reductions: list[GrowingReduction] = []
        self.declined: list[tuple[Node, str]] = []
        self.done: set[Node] = set()  # nodes that were handled together with an earlier one

    # -- axes

    def axes(self, value: Value | None) -> Axes:
        """The elements on each axis; elements on folded axes are fixed. Declined where the rank is unknown."""
        return tuple(self.plain(axis) for axis in self.raw_axes(value))

    def plain(self, axis: Axis) -> Ids | None:
        """The elements of an axis, for operators without support of folded axes, whose elements are fixed."""
        if not isinstance(axis, Folded):
            return axis
        self.fix(axis.ids, f"{self.location} takes an axis whole that channels are merged into")
        return None

    def raw_axes(self, value: Value | None) -> tuple[Axis, ...]:
        """The axes of a value, folded ones included; a constant gets elements at its first use.

        Declined where the rank is unknown.
        """
        if value is None:
            raise Declined("an operand is missing")
        if value not in self.known:
            self.known[value] = self._first_axes(value)
        return self.known[value]

    def _first_axes(self, value: Value) -> tuple[Axis, ...]:
        if value.constant is not None:
            return tuple(self.fresh(size) for size in value.constant.shape)
        if isinstance(value.type, TensorType) and value.type.rank is not None:
            return (None,) * value.type.rank
        raise Declined("the number of axes of an operand is not known")

    def size(self, value: Value, axis: int) -> Dim:
        """The size of an axis: the number of its elements, if it has any, else the declared size."""
        own = self.raw_axes(value)[axis]
        if isinstance(own, np.ndarray):
            return len(own)
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        return None if shape is None else shape[axis]

    def sizes(self, value: Value) -> tuple[Dim, ...]:
        """The sizes of all axes."""
        return tuple(self.size(value, axis) for axis in range(len(self.raw_axes(value))))

    def set(self, value: Value, axes: Sequence[Axis]) -> None:
        """Record the elements on the axes of a result."""
        self.known[value] = tuple(axes)

    def fresh(self, size: int) -> Ids | None:
        """New elements for an axis; None for an axis of one position, which is never removed."""
        return self.elements.fresh(size) if size > 1 else None

    @staticmethod
    def ids_of(axis: Ids | Folded) -> Ids:
        """The elements of an axis, each once where it is folded."""
        return axis.ids if isinstance(axis, Folded) else axis

    def same(self, a: Axis, b: Axis) -> bool:
        """Whether two axes hold the same elements position by position, and so always have equal sizes."""
        if a is None or b is None or isinstance(a, Folded) != isinstance(b, Folded):
            return False
        one, other = self.ids_of(a), self.ids_of(b)
        return len(one) == len(other) and bool(np.array_equal(self.elements.find(one), self.elements.find(other)))

    def is_static(self, value: Value | None) -> bool:
        """Whether a value is a constant, or computed from constants alone."""
        return value is not None and (value.constant is not None or value in self.static)

    # -- facts

    def join(self, parts: Sequence[Ids | None], reason: str) -> Ids | None:
        """Unite axes position by position, and return the elements; one fixed axis (None) fixes the rest."""
        joined = self.join_folded(parts, reason)
        return None if joined is None else self.ids_of(joined)

    def join_folded(self, parts: Sequence[Axis], reason: str) -> Axis:
        """`join` of axes that may be folded, all alike."""
        free = [axis for axis in parts if axis is not None]
        if not free:
            return None
        first = free[0]
        for other in free[1:]:
            if not _fit(first, other):
                raise Declined("sizes do not fit")
            if other is not first:
                self.elements.unite(self.ids_of(first), self.ids_of(other))
        if len(free) < len(parts):
            self.fix(self.ids_of(first), reason)
        return first

    def fix(self, ids: Ids | None, reason: str) -> None:
        """Forbid the removal of these positions."""
        if ids is not None and ids.size:
            self.fixed.append((ids, reason))

    def fix_all(self, axes: Sequence[Ids | None], reason: str) -> None:
        """Forbid the removal of every position on these axes."""
        for ids in axes:
            self.fix(ids, reason)

    def fix_number(self, number: Number, reason: str) -> None:
        """Fix a size: fix the channels that it counts, and pin the constants that store it."""
        for part in (number, *number.factors):
            if part.counts is not None:
                self.fix(self.ids_of(part.counts), reason)
            if part.place is not None:
                self.pinned[part.place.node, part.place.slot, part.place.index] = reason

    def fix_shared_sizes(self) -> None:
        """A shape constant also read elsewhere makes its channels non-removable."""
        for (node, slot, index), reason in self.pinned.items():
            update = self.size_updates.get((node, slot))
            if update is not None and index in update.counts:
                self.fix(update.counts[index], reason)

    def approximates(self, ids: Ids | None, kind: str) -> None:
        """Record that removing these positions changes kept values: NEIGHBOURS, STATISTICS or RANGE."""
        if ids is not None:
            self.approximate.append((ids, kind))

    def layer(self, layer: WeightedLayer) -> None:
        """Record a layer whose outputs and inputs can be sliced out of its weight."""
        self.layers.append(layer)
        if layer.outputs is not None:
            self.outputs.append(layer.outputs)
        if layer.inputs is not None:
            self.inputs.append(layer.inputs)

    def partition(self, ids: Ids | None, parts: int) -> None:
        """Record that equal numbers must be kept in each of `parts` runs of an axis (grouped layers)."""
        if ids is not None and parts > 1:
            self.partitions.append(ids.reshape(parts, -1))

    def update_size(self, node: Node, place: int | str, base: Sequence[int], index: int, ids: Ids | None) -> None:
        """Record that entry `index` at an input slot or attribute is the number of `ids`."""
        if ids is None:
            return
        slot, name = (place, "") if isinstance(place, int) else (None, place)
        update = self.size_updates.get((node, place)) or SizeUpdate(node, slot, name, tuple(base), {})
        before = update.counts.get(index)
        if before is None:
            self.size_updates[node, place] = replace(update, counts={**update.counts, index: ids})
        elif len(before) != len(ids):
            raise Declined("one constant gives different sizes")
        else:
            self.elements.unite(before, ids)


def _fit(a: Axis, b: Axis) -> bool:
    if isinstance(a, Folded) and isinstance(b, Folded):  # outer sizes only give the number of repetitions
        return len(a.ids) == len(b.ids) and a.inner == b.inner and None not in a.inner
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and len(a) == len(b)


Transfer = Callable[[Tracker, Node], None]
TRANSFERS: dict[str, Transfer] = {}
"""By operator, its transfer function: how channels move from operands to results."""


def transfer(*ops: str) -> Callable[[Transfer], Transfer]:
    """Register a transfer function for operators."""

    def register(function: Transfer) -> Transfer:
        for op in ops:
            TRANSFERS[op] = function
        return function

    return register


def integers(value: Value | None) -> tuple[int, ...] | None:
    """A small constant vector or scalar of integers; None for anything else."""
    if value is None or value.constant is None or value.constant.size > 64 or len(value.constant.shape) > 1:
        return None
    if not value.constant.dtype.is_integer:
        return None
    return tuple(int(v) for v in np.reshape(value.constant.array(), -1))
