"""Print a graph in MLIR's manner. Names become unique here only: the IR compares values by identity.

    graph tiny(%x: f32[N,2,3,3]) {
      %h = Conv(%x, @w) : f32[N,2,3,3]
      %y = Relu(%h) : f32[N,2,3,3]
      return %y
    }

`%` is computed, `@` constant, `_` a missing input; small constants are printed in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .constant import Constant
from .graph import Graph, Node, Value, graphs_in
from .types import DType

_INLINE = 8
"""Elements of the largest constant that is printed in place."""


def to_text(graph: Graph, *, constants: bool = False) -> str:
    """The graph as text, the same for equal graphs. `constants=True` adds the values of small constants."""
    printer = _Printer(constants)
    return "\n".join(printer.graph(graph, f"graph {graph.name or '_'}", "")) + "\n"


def node_lines(graph: Graph, *, constants: bool = False) -> dict[Node, str]:
    """The text of each node of a graph, without nested nodes; names are those of `to_text`."""
    printer = _Printer(constants)
    for value in graph.inputs:
        printer.name(value)
    return {node: printer.node(node, "")[0] for node in graph}


class _Printer:
    def __init__(self, constants: bool) -> None:
        self.constants = constants
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()

    def name(self, value: Value | None) -> str:
        if value is None:
            return "_"
        known = self.names.get(value)
        if known is not None:
            return known
        stem = ("@" if value.constant is not None else "%") + (value.name or str(len(self.names)))
        text, n = stem, 1
        while text in self.taken:
            text, n = f"{stem}_{n}", n + 1
        self.taken.add(text)
        self.names[value] = text
        return text

    def operand(self, value: Value | None) -> str:
        text = self.name(value)
        if not self.constants or value is None or value.constant is None or value.constant.size > _INLINE:
            return text
        return f"{text}={tensor_text(value.constant)}"

    def graph(self, graph: Graph, head: str, indent: str) -> list[str]:
        params = ", ".join(f"{self.name(v)}: {v.type}" for v in graph.inputs)
        lines = [f"{indent}{head}({params}) {{"]
        for node in graph:
            lines += self.node(node, indent + "  ")
        results = ", ".join(self.operand(v) for v in graph.outputs)
        return [*lines, f"{indent}  return {results}", f"{indent}}}"]

    def node(self, node: Node, indent: str) -> list[str]:
        operands = ", ".join(self.operand(v) for v in node.inputs)
        plain = {k: v for k, v in sorted(node.attrs.items()) if not graphs_in(v)}
        attrs = " {" + ", ".join(f"{k}={attr_text(v)}" for k, v in plain.items()) + "}" if plain else ""
        results = ", ".join(self.name(v) for v in node.outputs)
        types = ", ".join("?" if v.type is None else str(v.type) for v in node.outputs)
        lines = [f"{indent}{results} = {node.op}({operands}){attrs} : {types}"]
        for key, value in sorted(node.attrs.items()):
            for nested in graphs_in(value):
                lines += self.graph(nested, key, indent + "  ")
        return lines


def attr_text(value: Any) -> str:
    """An attribute's value as the printer shows it."""
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(attr_text(v) for v in value) + "]"
    if isinstance(value, Constant):
        return tensor_text(value) if value.size <= _INLINE else f"<{value.type}>"
    return repr(value)


def tensor_text(constant: Constant) -> str:
    """A small constant: its type and values."""
    array = constant.array()
    if constant.dtype is DType.STRING:
        values = [repr(v) for v in array.flat]
    elif np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
        values = [str(v) for v in array.ravel().tolist()]
    else:
        values = [f"{v:.8g}" for v in array.astype(np.float64, copy=False).ravel().tolist()]
    return f"{constant.type}({', '.join(values)})"


Graph.text = to_text
