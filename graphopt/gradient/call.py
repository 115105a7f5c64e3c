"""The argument of a rule: one node of the forward computation and the cotangents of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from ..analysis.operands import integers
from ..errors import Declined
from ..ir import Array, Node, Value
from ..ops import attr
from .tensor import Tensor, Writer


@dataclass(frozen=True)
class Call:
    """One node to be differentiated.

    cotangents: dL/d(output) for each output, None where the loss does not depend on it. wanted: the input slots whose
    cotangents are needed. gradients: reverse mode itself, for rules that differentiate graphs. active: the values that
    depend on `wrt`. captured: receives the cotangents of outer values that nested graphs read.
    """

    node: Node
    writer: Writer
    cotangents: tuple[Tensor | None, ...]
    wanted: frozenset[int]
    gradients: Callable[[Writer, Mapping[Value, Tensor], Sequence[Value]], list[Tensor | None]]
    active: AbstractSet[Value] = frozenset()
    captured: dict[Value, Tensor] = field(default_factory=dict)

    @property
    def g(self) -> Tensor:
        """The cotangent of the first output; Declined where only another output is read."""
        if self.cotangents[0] is None:
            raise Declined(f"{self.node.op} has no gradient with respect to its later outputs")
        return self.cotangents[0]

    @property
    def y(self) -> Tensor:
        """The first output."""
        return Tensor(self.writer, self.node.outputs[0])

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.input(0)

    def input(self, slot: int) -> Tensor:
        """Input `slot`, which must be present."""
        value = self.node.input(slot)
        if value is None:
            raise Declined(f"input {slot} is missing")
        return Tensor(self.writer, value)

    def optional(self, slot: int) -> Tensor | None:
        """Input `slot`, None where it is missing."""
        value = self.node.input(slot)
        return None if value is None else Tensor(self.writer, value)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, its schema's default, or `default`."""
        return attr(self.node, name, default)

    def number(self, slot: int, what: str) -> Array:
        """The constant at input `slot`; Declined where it is computed."""
        constant = self.node.constant(slot)
        if constant is None:
            raise Declined(f"{what} is computed at run time")
        return constant.array()

    def axis(self, name: str = "axis", default: int | None = None, rank: int | None = None) -> int:
        """An attribute that counts an axis, made non-negative."""
        axis = int(self.attr(name, default))
        return axis if axis >= 0 else axis + (self.x.rank if rank is None else rank)

    def axes(self, slot: int) -> list[int] | None:
        """Axes at input `slot` (or the attribute `axes`), non-negative; None where there are none.

        Declined where they are computed at run time.
        """
        given = integers(self.node, slot, "axes")
        if given is None:
            if self.node.input(slot) is not None:
                raise Declined("axes are computed at run time")
            return None
        return [a % self.x.rank if self.x.rank else 0 for a in given]


Rule = Callable[[Call], Mapping[int, Tensor]]
"""Differentiates one node: the cotangents of its wanted inputs, by slot."""

Gradients = dict[int, Tensor]
"""Cotangents of inputs by slot."""
