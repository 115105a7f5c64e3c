"""The base class of the region IR's operations: inputs, one output, the covered nodes, and the traits of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from ...ir import Node, Value

Shape = tuple[int, ...]
"""Sizes along the logical axes, in ONNX's order."""


class Element(Enum):
    """The element type of an operation's operands or result, or the name of the attribute that decides it."""

    CODE = "8 bits"
    FLOAT = "float32"
    BY_Y = "y"
    """Codes of the quantization `y`, float32 where `y` is None."""
    BY_FLOATS = "floats"
    """float32 where `floats` is True, else codes."""


@dataclass(frozen=True, slots=True)
class Traits:
    """The facts about a kind of operation that partition and compilation read.

    is_product: multiplies and accumulates; a region without a product is not worth its borders. is_glue: with a float32
    result, worth a kernel only between operations on kernels. reads_first: reads the elements of the first input only,
    and the shapes of the others.
    """

    reads: Element = Element.CODE
    writes: Element = Element.CODE
    is_product: bool = False
    is_glue: bool = False
    reads_first: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Operation:
    """One value computed from others; `nodes`: the graph's nodes whose work the operation does."""

    traits: ClassVar[Traits] = Traits()

    inputs: tuple[Value, ...]
    output: Value
    nodes: tuple[Node, ...]

    @property
    def is_product(self) -> bool:
        """Whether the operation multiplies and accumulates."""
        return self.traits.is_product

    @property
    def reads_float(self) -> bool:
        """Whether the inputs are float32, not codes."""
        return self._is_float(self.traits.reads)

    def reads_float_from(self, value: Value) -> bool:
        """Whether input `value` is float32."""
        return self.reads_float

    @property
    def writes_float(self) -> bool:
        """Whether the result is float32, not codes."""
        return self._is_float(self.traits.writes)

    @property
    def is_float_glue(self) -> bool:
        """Whether the result is float32 and worth a kernel only between operations on kernels."""
        return self.traits.is_glue and self.writes_float

    @property
    def data_inputs(self) -> tuple[Value, ...]:
        """The inputs whose elements are read; of other inputs only the shape is read."""
        return self.inputs[:1] if self.traits.reads_first else self.inputs

    def _is_float(self, element: Element) -> bool:
        if element in (Element.CODE, Element.FLOAT):
            return element is Element.FLOAT
        return getattr(self, element.value) in (None, True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatOperation(Operation):
    """Arithmetic from float32 to float32."""

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT, writes=Element.FLOAT, is_glue=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rearrangement(Operation):
    """Elements moved, of codes or, with `floats`, of float32."""

    traits: ClassVar[Traits] = Traits(reads=Element.BY_FLOATS, writes=Element.BY_FLOATS, is_glue=True)

    floats: bool = False
