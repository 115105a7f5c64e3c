"""Axes of a value as removable positions, and integers that are the sizes of such axes."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Dim, Node
from .elements import Ids

Axes = tuple["Ids | None", ...]
"""For each axis of a value the elements at its positions; None for a fixed axis."""


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """An axis merged from `outer`, the axis of `ids` and `inner`, some of unknown size: position p holds element
    (p // product of inner) % len(ids)."""

    outer: tuple[Dim, ...]
    ids: Ids
    inner: tuple[Dim, ...]


Axis = Ids | Folded | None


@dataclass(frozen=True, slots=True, eq=False)
class SizeLocation:
    """The storage of a size: entry `index` of the constant `vector` at an input slot or attribute of a node."""

    node: Node
    slot: int | str
    index: int
    vector: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """One entry of an integer vector computed from shapes.

    size: the value, as far as known. counts: the axis whose size the number is at run time. place: the constant that
    stores the number. factors: of a product.
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
