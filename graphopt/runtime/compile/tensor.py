"""Tensors of a region while it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..lower.traits import Shape
from .layouts import Order


@dataclass(frozen=True, slots=True)
class Tensor:
    """Elements in a buffer: logical shape, order of axes in memory, bytes of an element."""

    buffer: int
    shape: Shape
    order: Order
    itemsize: int = 1

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)
