"""Axes of a value as positions that can be removed, and integers that are the sizes of such axes."""

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


Axis = Ids | Folded | None


@dataclass(frozen=True, slots=True, eq=False)
class SizeLocation:
    """Where a size is stored: entry `index` of the constant `vector` at an input slot or attribute of a node."""

    node: Node
    slot: int | str
    index: int
    vector: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """One entry of a shape computation.

    size: its value as far as it is known. counts: the axis whose size it is at run time. place: the constant it is
    stored in. factors: the numbers it is the product of.
    """

    size: Dim
    counts: Ids | Folded | None = None
    place: SizeLocation | None = None
    factors: tuple[Number, ...] = ()


@dataclass(frozen=True, slots=True)
class Vector:
    """The numbers of an integer vector, or a single one where `scalar`."""

    numbers: tuple[Number, ...]
    scalar: bool = False
