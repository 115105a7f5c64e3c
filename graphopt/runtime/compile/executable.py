"""Executables: a region compiled for known shapes, independent of the graph, so that they can be cached on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from ...ir import Array
from ...kernels import Buffer, Library, Step
from ...kernels.core.linked_table import LinkedTable
from ...kernels.core.states import quickly_pickled
from ..lower.traits import Shape
from .growth import Growth
from .layouts import Order

Use = tuple[int, int, int]
"""Where a program holds an address: number of the step, number of its argument, bytes from a buffer's start."""

Memory = Literal["fast", "small"]
"""Whether Winograd weights are stored transformed ("fast") or transformed during each run ("small")."""


@quickly_pickled
@dataclass(frozen=True, slots=True)
class ProgramStep:
    """One step of the program, the buffers that its names stand for, and its operation in words."""

    step: Step
    buffers: Mapping[str, int]
    title: str


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Border:
    """A tensor that enters or leaves the region: its buffer, logical shape, order of axes in memory, numpy type."""

    buffer: int
    shape: Shape
    order: Order
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Executable:
    """A region's program for one set of input shapes. The memory of each run is its own `ExecutionContext`.

    `library` stands first, so that unpickling links the kernels before the tables that point at them. `offsets` place
    the buffers in an arena of `arena_bytes`; `constants`: buffers filled once. A source is None where only its shape
    was read. `packed_bytes`: bytes of the packed weights. `growth`: the growing caches, if any.
    """

    library: Library
    steps: tuple[ProgramStep, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    constants: Mapping[int, Array]
    sources: tuple[Border | None, ...]
    results: tuple[Border, ...]
    packed_bytes: int
    growth: Growth | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no result has elements, so that nothing runs."""
        return all(prod(border.shape) == 0 for border in self.results)

    def uses(self) -> Mapping[int, Sequence[Use]]:
        """The places in the program that hold an address in each buffer, by the buffer's number."""
        found: dict[int, list[Use]] = {}
        for index, row in enumerate(self.steps):
            for place, argument in enumerate(row.step.arguments.values()):
                if isinstance(argument, Buffer) and argument.name in row.buffers:
                    found.setdefault(row.buffers[argument.name], []).append((index, place, argument.offset))
        return found


@dataclass(frozen=True, slots=True)
class NoExecutable:
    """The reason why kernels cannot run a region at some input shapes; cached on disk as an executable is."""

    reason: str


def hidden_addresses(executable: Executable) -> list[str]:
    """Arguments that hold addresses of this process as plain integers: another process could not run the executable."""
    arrays = [array for row in executable.steps for array in _arrays(row.step)]
    addresses = {array.ctypes.data for array in arrays if array.size}
    addresses.update(unit.address() for unit in executable.library.units)

    def hides(value: Any) -> bool:
        if isinstance(value, int):
            return value in addresses
        if not isinstance(value, np.ndarray) or value.dtype != np.int64:
            return False
        return not addresses.isdisjoint(value.ravel().tolist())

    return [
        f"{row.step.kernel.name}: {name}"
        for row in executable.steps
        for name, value in row.step.arguments.items()
        if hides(value)
    ]


def _arrays(step: Step) -> Iterator[Array]:
    for value in step.linked:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, LinkedTable):
            yield from (value.words, *value.arrays)
