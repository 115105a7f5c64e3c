"""Region IR, continued: functions of one float32 element, means, and elements selected or repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ....ir import Array, Value
from ....kernels.elementwise.functions import FloatFunctionName
from ..traits import Element, FloatOperation, Rearrangement, Shape, Traits


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatFunction(FloatOperation):
    """y = function(x; a, b) of each float32 element, as `kernels.elementwise.functions` defines the functions."""

    function: FloatFunctionName
    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatMean(FloatOperation):
    """The mean over `axes` (all of them where empty), which stay with size 1 where `keep`."""

    axes: tuple[int, ...]
    keep: bool


Cut = tuple[int, int, int, int]
"""Axis, begin, end and step of a slice along one axis."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Slice(Rearrangement):
    """Slices along some axes, then an optional table: Slice, an output of Split, Gather by a constant index.

    cuts: axis, begin, end and step of each, as in ONNX's Slice, steps positive. `dropped` removes the axis of the only
    cut. computed: by (i, j), the value that replaces item j of cut i, a number computed from the shapes of the inputs
    after the first.
    """

    traits: ClassVar[Traits] = Traits(reads=Element.BY_FLOATS, writes=Element.BY_FLOATS, is_glue=True, reads_first=True)

    cuts: tuple[Cut, ...]
    dropped: bool = False
    computed: Mapping[tuple[int, int], Value] = field(default_factory=dict)
    table: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Expand(Rearrangement):
    """Repeats elements along axes of size 1, to a `target` with which the shape broadcasts.

    A Value is computed from the shapes of the inputs after the first, as in Reshape; −1 keeps the size.
    """

    traits: ClassVar[Traits] = Traits(reads=Element.BY_FLOATS, writes=Element.BY_FLOATS, is_glue=True, reads_first=True)

    target: tuple[int, ...] | Value


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Blocks(Rearrangement):
    """Blocks of `block` × `block` pixels of an image become channels, or channels become blocks.

    kind: ONNX's SpaceToDepth, or the mode of DepthToSpace, by which the number in the block comes before the channel
    (DCR) or behind it.
    """

    block: int
    kind: Literal["space", "DCR", "CRD"]

    @property
    def permutation(self) -> tuple[int, ...]:
        """The permutation of the axes once the changing ones are split in two."""
        return {"space": (0, 3, 5, 1, 2, 4), "DCR": (0, 3, 4, 1, 5, 2), "CRD": (0, 1, 4, 2, 5, 3)}[self.kind]

    def split(self, shape: Shape) -> tuple[Shape, ...]:
        """The sizes [N, C, H, W], each as the tuple of sizes into which its axis is split."""
        n, c, h, w = shape
        b = self.block
        if self.kind == "space":
            return (n,), (c,), (h // b, b), (w // b, b)
        return (n,), ((b, b, c // (b * b)) if self.kind == "DCR" else (c // (b * b), b, b)), (h,), (w,)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pad(Rearrangement):
    """Pads with `value` (a code or a float32), after an optional table.

    pads: for each axis, the numbers of elements before and behind.
    """

    pads: tuple[tuple[int, int], ...]
    value: float
    table: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatResize(FloatOperation):
    """Linear Resize of an image's height and width; `scales` and `sizes` as of `Resize`."""

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT, writes=Element.FLOAT, is_glue=True, reads_first=True)

    coordinates: str
    scales: tuple[float, ...] = ()
    sizes: tuple[int, ...] | Value = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InstanceNorm(FloatOperation):
    """InstanceNormalization of float32 [N, C, …]; scale and bias: float32 [C]."""

    scale: Array
    bias: Array
    epsilon: float
