"""The base of the region IR's operations: inputs, one output, the nodes it stands for, and the traits of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from ...ir import Node, Value

Shape = tuple[int, ...]
"""Sizes along the logical axes, in ONNX's order."""


class Element(Enum):
    """The elements of an operation's operands or result. Where they depend on the operation, its deciding attribute."""

    CODE = "8 bits"
    FLOAT = "float32"
    BY_Y = "y"
    """Codes of the quantization `y`, float32 where that is None."""
    BY_FLOATS = "floats"
    """float32 where `floats` is True, else codes."""


@dataclass(frozen=True, slots=True)
class Traits:
    """The facts of a kind of operation that partition and compilation ask for.

    is_product: it multiplies and accumulates; a region without any product is not worth its borders. is_glue: where its
    result is float32, it is worth a kernel only between operations on kernels. reads_first: only the first input's
    elements are read, of the others only the shape is.
    """

    reads: Element = Element.CODE
    writes: Element = Element.CODE
    is_product: bool = False
    is_glue: bool = False
    reads_first: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Operation:
    """One value computed from others; `nodes` are the graph's nodes whose work it does."""

    traits: ClassVar[Traits] = Traits()

    inputs: tuple[Value, ...]
    output: Value
    nodes: tuple[Node, ...]

    @property
    def is_product(self) -> bool:
        """It multiplies and accumulates."""
        return self.traits.is_product

    @property
    def reads_float(self) -> bool:
        """The inputs are float32, not codes."""
        return self._is_float(self.traits.reads)

    def reads_float_from(self, value: Value) -> bool:
        """Whether this input is float32."""
        return self.reads_float

    @property
    def writes_float(self) -> bool:
        """The result is float32, not codes."""
        return self._is_float(self.traits.writes)

    @property
    def is_float_glue(self) -> bool:
        """It makes float32 and is worth a kernel only between operations on kernels."""
        return self.traits.is_glue and self.writes_float

    @property
    def data_inputs(self) -> tuple[Value, ...]:
        """The inputs whose elements are read; of the others only the shape is."""
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
    """Elements in other places, as codes or, with `floats`, as float32."""

    traits: ClassVar[Traits] = Traits(reads=Element.BY_FLOATS, writes=Element.BY_FLOATS, is_glue=True)

    floats: bool = False
