"""Executables: all that runs of a region at known shapes need, and nothing of the graph. They can be kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from ...ir import Array
from ...kernels import Buffer, Library, Step
from ...kernels.core.linked_table import LinkedTable
from ..lower.traits import Shape
from .growth import Growth
from .layouts import Order

Use = tuple[int, int, int]
"""A step, an argument of it, and bytes from a buffer's start."""

Memory = Literal["fast", "small"]
"""Whether Winograd weights are stored transformed ("fast") or transformed during each run ("small")."""


@dataclass(frozen=True, slots=True)
class ProgramStep:
    """One row of the program, the buffers its names stand for, and its operation in words."""

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
    """A region's program for one set of input shapes. Each run has memory of its own, an `ExecutionContext`.

    `library` stands first, so that a copy read from disk links the kernels before the tables that point at them.
    `offsets` place the buffers in an arena of `arena_bytes`; `constants` are the buffers filled once. A source is None
    where only its shape was needed. `packed_bytes`: the weights'.
    `growth`: its caches of any length, where it has some.
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
        """Whether some result has no elements, so that nothing runs."""
        return any(prod(border.shape) == 0 for border in self.results)

    def uses(self) -> Mapping[int, Sequence[Use]]:
        """Where the program has the address of each buffer."""
        found: dict[int, list[Use]] = {}
        for index, row in enumerate(self.steps):
            for place, argument in enumerate(row.step.arguments.values()):
                if isinstance(argument, Buffer) and argument.name in row.buffers:
                    found.setdefault(row.buffers[argument.name], []).append((index, place, argument.offset))
        return found


@dataclass(frozen=True, slots=True)
class NoExecutable:
    """Why kernels do not take a region at some input shapes. It can be kept on disk as an executable is."""

    reason: str


def hidden_addresses(executable: Executable) -> list[str]:
    """Arguments that are addresses of this process as plain numbers; with any, another process could not run it."""
    arrays = [array for row in executable.steps for array in _arrays(row.step)]
    addresses = {array.ctypes.data for array in arrays if array.size}
    addresses.update(unit.address() for unit in executable.library.units)

    def hides(value: Any) -> bool:
        if isinstance(value, np.ndarray):
            return value.dtype == np.int64 and not addresses.isdisjoint(value.ravel().tolist())
        return isinstance(value, int) and value in addresses

    return [
        f"{row.step.kernel.name}: {name}"
        for row in executable.steps
        for name, value in row.step.arguments.items()
        if hides(value)
    ]


def _arrays(step: Step) -> Iterator[Array]:
    for value in step.arguments.values():
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, LinkedTable):
            yield from (value.words, *value.arrays)
