"""What an analysis of channels collects on its way through a graph: the elements on every axis, and what binds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir import Node, TensorType, Value
from .elements import Elements, Ids

Axes = tuple["Ids | None", ...]
"""For each axis of a value the elements at its positions; None for an axis from which nothing can be removed."""

NEIGHBOURS, STATISTICS = "neighbours", "statistics"
"""Ways in which removal is not exact: what a channel becomes depends on its neighbours, or on a mean over channels."""


class Unclear(Exception):
    """An operator whose effect on channels is not understood; the text says why. Its operands' channels stay."""


@dataclass(slots=True)
class Linear:
    """A layer with a weight: what it reads (`inputs`, None where fixed) and makes (`outputs`), one element a channel.

    kind: "dense", "grouped", "depthwise", "table" (an embedding, which reads no channels) or "recurrent" (whose outputs
    stay). `in_axis` and `out_axis` are axes of the weight; in a grouped layer one of them counts within a group only.
    """

    node: Node
    weight: Value
    kind: str
    groups: int
    out_axis: int
    in_axis: int | None
    outputs: Ids | None
    inputs: Ids | None

    @property
    def data(self) -> tuple[int, int]:
        """The input slot of the data it reads, and the axis of the channels there."""
        if self.node.op in ("Conv", "ConvTranspose", "Gemm"):
            return 0, 1
        if self.node.op == "MatMul":
            return (0, -1) if self.node.inputs[1] is self.weight else (1, -2)
        return 0, -1

    @property
    def weight_slot(self) -> int:
        """The input slot of the weight."""
        return self.node.inputs.index(self.weight)


@dataclass(slots=True)
class Resize:
    """Numbers of a constant or attribute that count elements: entry `i` becomes how many of `counts[i]` are kept.

    slot: the input that holds them; None where they are the attribute `name`. `base` is what they are now.
    """

    node: Node
    slot: int | None
    name: str
    base: tuple[int, ...]
    counts: dict[int, Ids] = field(default_factory=dict)


@dataclass(slots=True)
class Choice:
    """A Gather by the constant `indices` on `axis` whose positions hold `elements`; what is taken is renumbered."""

    node: Node
    axis: int
    indices: tuple[int, ...]
    elements: Ids


@dataclass(slots=True)
class Shuffle:
    """Reshape, Transpose, Reshape that reorder `axis` by `order`: out[i] = in[order[i]]."""

    nodes: tuple[Node, Node, Node]
    axis: int
    order: Ids
    elements: Ids


@dataclass(slots=True)
class Partition:
    """Positions in equal parts [parts, size], of which an equal number must be kept in every part (grouped layers)."""

    node: Node
    parts: Ids


class Tracker:
    """The state of the analysis. Transfer functions read `axes` of operands and `set` those of results."""

    def __init__(self) -> None:
        self.elements = Elements()
        self.known: dict[Value, Axes] = {}
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
        self.skip: set[Node] = set()  # nodes that an earlier one has dealt with

    # -- axes

    def axes(self, value: Value | None) -> Axes:
        """The elements on each axis; a constant gets new ones when it is first asked. Unclear if the rank is."""
        if value is None:
            raise Unclear("an operand is missing")
        found = self.known.get(value)
        if found is not None:
            return found
        if value.constant is not None:
            made = tuple(self.fresh(size) for size in value.constant.shape)
        elif isinstance(value.type, TensorType) and value.type.rank is not None:
            made = (None,) * value.type.rank
        else:
            raise Unclear("the number of axes of an operand is not known")
        self.known[value] = made
        return made

    def size(self, value: Value, axis: int) -> int | str | None:
        """The size of an axis; axes that hold elements have as many positions."""
        ids = self.axes(value)[axis]
        if ids is not None:
            return len(ids)
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        return None if shape is None else shape[axis]

    def sizes(self, value: Value) -> tuple[int | str | None, ...]:
        """The sizes of all axes."""
        return tuple(self.size(value, axis) for axis in range(len(self.axes(value))))

    def set(self, value: Value, axes: Sequence[Ids | None]) -> None:
        """Say what is on the axes of a result."""
        self.known[value] = tuple(axes)

    def fresh(self, size: int) -> Ids | None:
        """New elements for an axis; None for an axis of one position, which is never removed."""
        return self.elements.fresh(size) if size > 1 else None

    def is_static(self, value: Value | None) -> bool:
        """A constant, or computed from constants alone."""
        return value is not None and (value.constant is not None or value in self.static)

    # -- facts

    def join(self, parts: Sequence[Ids | None], reason: str) -> Ids | None:
        """What is on an axis where several meet position by position: they become one; a fixed one fixes the rest."""
        held = [ids for ids in parts if ids is not None]
        if not held:
            return None
        for other in held[1:]:
            if len(other) != len(held[0]):
                raise Unclear("sizes do not fit")
            if other is not held[0]:
                self.elements.unite(held[0], other)
        if len(held) < len(parts):
            self.block(held[0], reason)
        return held[0]

    def block(self, ids: Ids | None, reason: str) -> None:
        """These positions stay."""
        if ids is not None and ids.size:
            self.blocked.append((ids, reason))

    def fix(self, axes: Sequence[Ids | None], reason: str) -> None:
        """All positions on these axes stay."""
        for ids in axes:
            self.block(ids, reason)

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
            raise Unclear("one constant gives different sizes")
        else:
            self.elements.unite(before, ids)


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
