"""The elements on the axes of a value, and the sizes that count them."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Dim, Node
from .elements import Ids

Axes = tuple["Ids | None", ...]
"""For each axis of a value the elements at its positions; None for an axis from which nothing can be removed."""


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """An axis that merges `outer`, the axis of `ids` and `inner`, some of whose sizes are not known: position p holds
    element (p // product of inner) % len(ids)."""

    outer: tuple[Dim, ...]
    ids: Ids
    inner: tuple[Dim, ...]

    @property
    def factors(self) -> tuple[Dim, ...]:
        """The sizes that are merged, outermost first."""
        return (*self.outer, len(self.ids), *self.inner)


Axis = Ids | Folded | None


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a size is written down: entry `index` of the constant `vector` at an input slot or attribute of a node."""

    node: Node
    slot: int | str
    index: int
    vector: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A size: what is known of it, what it counts while the model runs, where it is written down, or its factors."""

    size: Dim
    counts: Ids | Folded | None = None
    place: Place | None = None
    factors: tuple[Number, ...] = ()


@dataclass(frozen=True, slots=True)
class Vector:
    """The numbers of an integer vector, or a single one where `scalar`."""

    numbers: tuple[Number, ...]
    scalar: bool = False
