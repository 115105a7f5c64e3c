"""Growing caches: inputs and outputs of a region, outside its arena, whose length no executable fixes.

Their addresses, strides and lengths are words of the program that are bound before each run; buffers of zero bytes
stand for these words. So one executable serves caches of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir import Value
from ..lower.decoders.operations import AppendCache, CachedAttention
from ..lower.traits import Operation, Shape
from .tensor import Tensor


@dataclass(frozen=True, slots=True)
class GrowingCache:
    """Input `source` and output `result` of a region, [batch, heads, rows, size]; `past_stride` and `stride`: the
    buffers that stand for the bytes between their heads."""

    source: int
    result: int
    past_stride: int
    stride: int


@dataclass(frozen=True, slots=True)
class Growth:
    """The caches of a region, which gain `count` rows in a run; `rows`: the buffer that stands for their length before;
    `masks`: the inputs that are as long as the caches after the run."""

    rows: int
    count: int
    caches: tuple[GrowingCache, ...]
    masks: tuple[int, ...]

    def fits(self, shapes: Sequence[Shape]) -> bool:
        """Whether all caches have equal lengths, and masks that length plus `count`."""
        lengths = {shapes[cache.source][2] for cache in self.caches}
        return len(lengths) == 1 and {shapes[i][-1] - self.count for i in self.masks} <= lengths


def growing_axes(operations: Sequence[Operation], inputs: Sequence[Value]) -> tuple[tuple[int, int], ...]:
    """The inputs of a region that grow from run to run, by number, and the axes along which they grow."""
    axes: dict[Value, int] = {}
    for operation in operations:
        if isinstance(operation, AppendCache):
            axes[operation.inputs[1]] = 2
        elif isinstance(operation, CachedAttention) and len(operation.inputs) > 3:
            axes[operation.inputs[3]] = -1
    return tuple((index, axes[value]) for index, value in enumerate(inputs) if value in axes)


class GrowthEmitter:
    """Collects the growing caches of a region as operations are emitted. `new` makes a tensor of a size in bytes."""

    def __init__(self, new: Callable[[Shape, int], Tensor]) -> None:
        self._new = new
        self._rows: Tensor | None = None
        self._past_strides: dict[Value, Tensor] = {}
        self._results: dict[Value, Value] = {}
        self._count = 0
        self.strides: dict[Value, Tensor] = {}
        self.masks: dict[Value, tuple[int, int, int]] = {}

    def source(self, value: Value, shape: Shape, axis: int) -> Tensor:
        """The tensor of a growing input."""
        if axis == -1:
            sizes = (1,) * (4 - len(shape)) + shape
            self.masks[value] = sizes[0], sizes[1], sizes[2]
        return self._new(shape, 0)

    @property
    def rows(self) -> Tensor:
        """The buffer that stands for the caches' rows before a run."""
        if self._rows is None:
            self._rows = self._new((), 0)
        return self._rows

    def past_stride(self, past: Value) -> Tensor:
        """The buffer that stands for the bytes between heads of an input cache."""
        return self._past_strides.setdefault(past, self._new((), 0))

    def result(self, past: Value, present: Value, shape: Shape, count: int) -> tuple[Tensor, Tensor]:
        """The tensor of an output cache, `count` rows longer, and the buffer for the bytes between its heads."""
        self._results[past], self._count = present, count
        self.strides[present] = self._new((), 0)
        return self._new(shape, 0), self.strides[present]

    def growth(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Growth | None:
        """The caches and masks that each run binds; None where nothing grows."""
        if self._rows is None:
            return None
        caches = tuple(
            GrowingCache(
                inputs.index(past), outputs.index(present), self._past_strides[past].buffer,
                self.strides[present].buffer,
            )
            for past, present in self._results.items()
        )  # fmt: skip
        return Growth(self._rows.buffer, self._count, caches, tuple(inputs.index(mask) for mask in self.masks))
