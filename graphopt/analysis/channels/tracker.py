"""What an analysis of channels collects on its way through a graph: the elements on every axis, and what binds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import Declined
from ...ir import Dim, Node, TensorType, Value
from .axes import Axes, Axis, Folded, Number, Vector
from .couplings import Choice, Linear, Partition, Product, Resize, Selection, Shuffle, Statistic
from .elements import Elements, Ids


class Tracker:
    """The state of the analysis. Transfer functions read `axes` of operands and `set` those of results."""

    def __init__(self, selected: frozenset[Node] = frozenset()) -> None:
        self.selected = selected  # layers that read a selection of channels that stay
        self.elements = Elements()
        self.known: dict[Value, tuple[Axis, ...]] = {}
        self.vectors: dict[Value, Vector] = {}  # of integers that are followed
        self.pinned: dict[tuple[Node, int | str, int], str] = {}
        self.at = ""  # the node that is looked at, as reasons name it
        self.static: set[Value] = set()
        self.blocked: list[tuple[Ids, str]] = []
        self.approximate: list[tuple[Ids, str]] = []
        self.made: list[Ids] = []
        self.read: list[Ids] = []
        self.linears: list[Linear] = []
        self.resizes: dict[tuple[Node, int | str], Resize] = {}
        self.choices: list[Choice] = []
        self.shuffles: list[Shuffle] = []
        self.partitions: list[Partition] = []
        self.products: list[Product] = []
        self.selections: list[Selection] = []
        self.statistics: list[Statistic] = []
        self.unclear: list[tuple[Node, str]] = []
        self.skip: set[Node] = set()  # nodes that an earlier one has dealt with

    # -- axes

    def axes(self, value: Value | None) -> Axes:
        """The elements on each axis; a constant gets new ones when it is first asked. Declined if the rank is.

        Folded axes are given as such by `whole` only: who does not know of them holds what is on them.
        """
        return tuple(self.plain(axis) for axis in self.whole(value))

    def plain(self, axis: Axis) -> Ids | None:
        """The elements of an axis; those of a folded one stay."""
        if not isinstance(axis, Folded):
            return axis
        self.block(axis.ids, f"{self.at} takes an axis whole that channels are merged into")
        return None

    def whole(self, value: Value | None) -> tuple[Axis, ...]:
        """The elements on each axis, folded ones included."""
        if value is None:
            raise Declined("an operand is missing")
        found = self.known.get(value)
        if found is not None:
            return found
        if value.constant is not None:
            made: tuple[Axis, ...] = tuple(self.fresh(size) for size in value.constant.shape)
        elif isinstance(value.type, TensorType) and value.type.rank is not None:
            made = (None,) * value.type.rank
        else:
            raise Declined("the number of axes of an operand is not known")
        self.known[value] = made
        return made

    def size(self, value: Value, axis: int) -> Dim:
        """The size of an axis; axes that hold elements have as many positions."""
        own = self.whole(value)[axis]
        if isinstance(own, np.ndarray):
            return len(own)
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        return None if shape is None else shape[axis]

    def sizes(self, value: Value) -> tuple[Dim, ...]:
        """The sizes of all axes."""
        return tuple(self.size(value, axis) for axis in range(len(self.whole(value))))

    def set(self, value: Value, axes: Sequence[Axis]) -> None:
        """Say what is on the axes of a result."""
        self.known[value] = tuple(axes)

    def fresh(self, size: int) -> Ids | None:
        """New elements for an axis; None for an axis of one position, which is never removed."""
        return self.elements.fresh(size) if size > 1 else None

    @staticmethod
    def ids_of(axis: Ids | Folded) -> Ids:
        """The elements of an axis, each once where it is folded."""
        return axis.ids if isinstance(axis, Folded) else axis

    def same(self, a: Axis, b: Axis) -> bool:
        """Whether two axes hold the same elements position by position, so that one has as many as the other."""
        if a is None or b is None or isinstance(a, Folded) != isinstance(b, Folded):
            return False
        one, other = self.ids_of(a), self.ids_of(b)
        return len(one) == len(other) and bool(np.array_equal(self.elements.find(one), self.elements.find(other)))

    def is_static(self, value: Value | None) -> bool:
        """A constant, or computed from constants alone."""
        return value is not None and (value.constant is not None or value in self.static)

    # -- facts

    def join(self, parts: Sequence[Ids | None], reason: str) -> Ids | None:
        """What is on an axis where several meet position by position: they become one; a fixed one fixes the rest."""
        made = self.meet(parts, reason)
        return None if made is None else self.ids_of(made)

    def meet(self, parts: Sequence[Axis], reason: str) -> Axis:
        """`join` of axes some of which are folded, all alike."""
        held = [axis for axis in parts if axis is not None]
        if not held:
            return None
        first = held[0]
        for other in held[1:]:
            if not _fit(first, other):
                raise Declined("sizes do not fit")
            if other is not first:
                self.elements.unite(self.ids_of(first), self.ids_of(other))
        if len(held) < len(parts):
            self.block(self.ids_of(first), reason)
        return first

    def block(self, ids: Ids | None, reason: str) -> None:
        """These positions stay."""
        if ids is not None and ids.size:
            self.blocked.append((ids, reason))

    def fix(self, axes: Sequence[Ids | None], reason: str) -> None:
        """All positions on these axes stay."""
        for ids in axes:
            self.block(ids, reason)

    def hold_number(self, number: Number, reason: str) -> None:
        """What a size counts stays, and so does what is written down."""
        for part in (number, *number.factors):
            if part.counts is not None:
                self.block(self.ids_of(part.counts), reason)
            if part.place is not None:
                self.pinned[part.place.node, part.place.slot, part.place.index] = reason

    def settle_pinned(self) -> None:
        """Numbers that serve in one place and must stay for another hold what they count."""
        for (node, slot, index), reason in self.pinned.items():
            found = self.resizes.get((node, slot))
            if found is not None and index in found.counts:
                self.block(found.counts[index], reason)

    def approximates(self, ids: Ids | None, kind: str) -> None:
        """Removing these changes what others become."""
        if ids is not None:
            self.approximate.append((ids, kind))

    def linear(self, linear: Linear) -> None:
        """Record a layer: its outputs can be cut out of its weight, and so can its inputs."""
        self.linears.append(linear)
        if linear.outputs is not None:
            self.made.append(linear.outputs)
        if linear.inputs is not None:
            self.read.append(linear.inputs)

    def partition(self, node: Node, ids: Ids | None, parts: int) -> None:
        """Say that equal numbers must be kept in each of `parts` runs of an axis."""
        if ids is not None and parts > 1:
            self.partitions.append(Partition(node, ids.reshape(parts, -1)))

    def resize(self, node: Node, place: int | str, base: Sequence[int], index: int, ids: Ids | None) -> None:
        """Say that number `index` at an input slot or attribute counts `ids`."""
        if ids is None:
            return
        slot, name = (place, "") if isinstance(place, int) else (None, place)
        found = self.resizes.setdefault((node, place), Resize(node, slot, name, tuple(base)))
        before = found.counts.get(index)
        if before is None:
            found.counts[index] = ids
        elif len(before) != len(ids):
            raise Declined("one constant gives different sizes")
        else:
            self.elements.unite(before, ids)


def _fit(a: Axis, b: Axis) -> bool:
    if isinstance(a, Folded) and isinstance(b, Folded):  # the outer sizes only say how often all of it repeats
        return len(a.ids) == len(b.ids) and a.inner == b.inner and None not in a.inner
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and len(a) == len(b)


Transfer = Callable[[Tracker, Node], None]
TRANSFERS: dict[str, Transfer] = {}
"""How each operator moves channels from its operands to its results."""


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
