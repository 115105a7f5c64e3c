"""Blueprints: all that a region's runs at known shapes need, and nothing of the graph. They can be kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...ir import Array
from ...kernels import Buffer, Library, Step
from ...kernels.links import LinkedTable
from .layouts import Order, Shape


@dataclass(frozen=True, slots=True)
class ProgramStep:
    """One row of the program, the buffers its names stand for, and what it computes in words."""

    step: Step
    buffers: Mapping[str, int]
    title: str


@dataclass(frozen=True, slots=True)
class Border:
    """A tensor that enters or leaves the region: its buffer, logical shape, order of axes in memory, numpy type."""

    buffer: int
    shape: Shape
    order: Order
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Executable:
    """A region's program for one set of input shapes. Runs happen in instances with memory of their own.

    `library` stands first, to be linked before tables that point at its kernels are read. `offsets` place the buffers
    in an arena of `arena_bytes`; `constants` are the buffers filled once. A source is None where its shape was all that
    was needed.
    """

    library: Library
    steps: tuple[ProgramStep, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    constants: Mapping[int, Array]
    sources: tuple[Border | None, ...]
    results: tuple[Border, ...]
    packed_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether some result has no elements, so that nothing runs."""
        return any(prod(border.shape) == 0 for border in self.results)

    def uses(self, buffer: int) -> Iterator[tuple[int, int, int]]:
        """Where the program has a buffer's address: step, argument, offset."""
        for index, planned in enumerate(self.steps):
            for place, argument in enumerate(planned.step.arguments.values()):
                if isinstance(argument, Buffer) and planned.buffers.get(argument.name) == buffer:
                    yield index, place, argument.offset


def hidden_addresses(plan: Executable) -> list[str]:
    """Arguments that are addresses of this process as plain numbers: a plan with any is not for another process."""
    arrays = [array for planned in plan.steps for array in _arrays(planned.step)]
    begins = np.sort(np.array([array.ctypes.data for array in arrays if array.size], np.int64))
    functions = np.array([unit.address() for unit in plan.library.units], np.int64)

    def hides(value: Any) -> bool:
        if isinstance(value, np.ndarray) and value.dtype != np.int64:
            return False
        if not isinstance(value, (int, np.ndarray)):
            return False
        words = np.asarray(value, np.int64)
        return bool(np.isin(words, begins).any() or np.isin(words, functions).any())

    return [
        f"{planned.step.kernel.name}: {name}"
        for planned in plan.steps
        for name, value in planned.step.arguments.items()
        if hides(value)
    ]


def _arrays(step: Step) -> Iterator[Array]:
    for value in step.arguments.values():
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, LinkedTable):
            yield from (value.words, *value.arrays)
