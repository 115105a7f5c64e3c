"""A graph as steps over numbered values, run by a module. Nested graphs share the numbering, so that captures need no
special handling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Declined, Unsupported
from ..ir import Graph, Node, Value
from ..ops import attr, schema_of, version_for
from .operators import OPERATORS

Values = dict[int, Any]
"""Tensors by number, while a program runs."""


@dataclass(frozen=True, slots=True)
class Call:
    """The node of an operator's function. outputs: number of outputs requested; nested: graphs by attribute."""

    op: str
    name: str
    attrs: Mapping[str, Any]
    outputs: int
    nested: Mapping[str, Program] = field(default_factory=dict)
    values: Values | None = None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute or its default."""
        value = self.attrs.get(name)
        return default if value is None else value


@dataclass(frozen=True, slots=True)
class Step:
    """One node: its operator's function, the numbers of its operands (-1 for a missing one) and of its results."""

    function: Callable[..., Any]
    call: Call
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(slots=True)
class Program:
    """Steps in their order; inputs and results by number."""

    inputs: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    steps: list[Step] = field(default_factory=list)

    def run(self, values: Values, arguments: Sequence[Any]) -> list[Any]:
        """The results for these arguments; stores all values in `values`."""
        values.update(zip(self.inputs, arguments))
        for step in self.steps:
            operands = [None if i < 0 else values[i] for i in step.reads]
            call = step.call
            if call.nested:
                call = Call(call.op, call.name, call.attrs, call.outputs, call.nested, values)
            try:
                made = step.function(call, *operands)
            except Declined as declined:
                raise Unsupported(f"torch does not run {call.op} {call.name!r}: {declined.reason}") from declined
            if len(step.writes) == 1 and not isinstance(made, tuple):
                values[step.writes[0]] = made
            else:
                values.update(zip(step.writes, made))
        return [values[i] for i in self.results]


class Compiler:
    """Numbers values and finds the function of each node."""

    def __init__(self) -> None:
        self.constants: dict[int, Value] = {}
        """The constants that are read, by number."""
        self._numbers: dict[Value, int] = {}

    def program(self, graph: Graph) -> Program:
        """The program of a graph. Unsupported for an operator without a function."""
        made = Program(inputs=tuple(self._number(v) for v in graph.inputs))
        for node in graph:
            if node is not graph.return_node:
                made.steps.append(self._step(node))
        made.results = tuple(self._number(v) for v in graph.outputs)
        return made

    def _number(self, value: Value | None) -> int:
        if value is None:
            return -1
        if value not in self._numbers:
            self._numbers[value] = len(self._numbers)
            if value.constant is not None or value.default is not None:
                self.constants[self._numbers[value]] = value
        return self._numbers[value]

    def _step(self, node: Node) -> Step:
        name = node.name or (node.outputs[0].name if node.outputs else "")
        function = OPERATORS.get(node.op)
        if function is None:
            raise Unsupported(f"torch has no {node.op}, the operator of node {name!r}")
        nested = {key: self.program(value) for key, value in node.attrs.items() if isinstance(value, Graph)}
        schema = schema_of(node.op, version_for(node))
        known = (*node.attrs, *(schema.attributes if schema is not None else ()))
        attrs = {key: attr(node, key) for key in known if key not in nested}
        reads = tuple(self._number(v) for v in node.inputs)
        return Step(
            function, Call(node.op, name, attrs, len(node.outputs), nested), reads,
            tuple(self._number(v) for v in node.outputs),
        )  # fmt: skip
