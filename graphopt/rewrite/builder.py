"""Builds the nodes that a rewrite inserts: typed at once, valid at the model's opset, or declined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, overload

import numpy as np

from ..errors import Declined
from ..ir import Constant, Graph, Node, Value
from ..ops import check_operator, infer, is_implemented, schema_of
from .context import Context

Attrs = Mapping[str, Any]

CONTRIB = {"com.microsoft": 1}
"""Domains that onnxruntime's CPU provider adds, with version; their nodes are built for targets but `portable`."""


def origins_of(*nodes: Node) -> tuple[str, ...]:
    """The names of the original nodes from which these nodes stem, each once."""
    return tuple(dict.fromkeys(origin for node in nodes for origin in node.origins))


class Builder:
    """`build.Conv(x, w, group=2)` makes a node and returns its output; numpy arrays become constants.

    `build.node("com.microsoft::Gelu", x)` reaches other domains, `build.node("Split", x, outputs=3)` returns a tuple of
    values. No node enters the graph until the rewrite is accepted. Raises Declined for operators that the opset lacks
    or the runtime does not implement.
    """

    def __init__(self, graph: Graph, context: Context | None = None) -> None:
        self.graph, self.context = graph, context or Context()
        self.nodes: list[Node] = []
        self.imports: dict[str, int] = {}

    @property
    def opset(self) -> int:
        """The imported version of ONNX's operator set."""
        return self.graph.opsets.get("", 0)

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op.startswith("__"):
            raise AttributeError(op)
        return partial(self.node, op)

    def constant(self, array: Any, name: str = "") -> Value:
        """A new constant."""
        return Value(constant=array if isinstance(array, Constant) else Constant.of(array), name=name)

    @overload
    def node(
        self, op: str, *inputs: Any, outputs: Literal[1] = 1, name: str = "", attrs: Attrs | None = None, **more: Any
    ) -> Value: ...

    @overload
    def node(
        self, op: str, *inputs: Any, outputs: int, name: str = "", attrs: Attrs | None = None, **more: Any
    ) -> tuple[Value, ...]: ...

    def node(
        self, op: str, *inputs: Any, outputs: int = 1, name: str = "", attrs: Attrs | None = None, **more: Any
    ) -> Value | tuple[Value, ...]:
        """Make a node of a qualified operator; returns its output, or a tuple when `outputs` > 1.

        Attributes come from `attrs`, another node's, overridden by keywords; None omits an attribute.
        """
        opsets = self._opsets(op)
        kept = {key: _plain(value) for key, value in {**(attrs or {}), **more}.items() if value is not None}
        values = [v if v is None or isinstance(v, Value) else self.constant(v) for v in inputs]
        while values and values[-1] is None:
            values.pop()
        _check(op, opsets, len(values), kept)
        made = Node(op, values, kept, outputs, name=name)
        for value, type in zip(made.outputs, infer(made, opsets)):
            value.type = type
        if not is_implemented(made, opsets):
            raise Declined(f"onnxruntime does not implement {op} on these types")
        self.nodes.append(made)
        return made.output if outputs == 1 else made.outputs

    def copy(self, node: Node, inputs: Iterable[Any], **attrs: Any) -> Value:
        """The same operator with other inputs and, where given, other attributes; returns its first output."""
        self.node(node.op, *inputs, outputs=len(node.outputs), name=node.name, attrs={**node.attrs, **attrs})
        return self.nodes[-1].outputs[0]

    def insert_before(self, anchor: Node, sources: Iterable[Node]) -> None:
        """Insert the built nodes before `anchor`, with the origins of `sources`, and import their domains."""
        origins = origins_of(*sources)
        for domain, version in self.imports.items():
            self.graph.opsets.setdefault(domain, version)
        for node in self.nodes:
            node.origins = origins
            self.graph.insert_before(anchor, node)

    def _opsets(self, op: str) -> Mapping[str, int]:
        domain = op.rpartition("::")[0]
        if domain in CONTRIB and self.context.target == "portable":
            raise Declined(f"{op} is not in a domain that the target has")
        if domain in self.graph.opsets:
            return self.graph.opsets
        if domain not in CONTRIB:
            raise Declined(f"{op} is not in a domain that the model imports")
        self.imports[domain] = CONTRIB[domain]
        return {**self.graph.opsets, **self.imports}


def _check(op: str, opsets: Mapping[str, int], inputs: int, attrs: Mapping[str, Any]) -> None:
    domain = op.rpartition("::")[0]
    version = opsets[domain]
    known = schema_of(op, version)
    if known is None:
        if domain == "":
            check_operator(op)
            raise Declined(f"{op} is not in opset {version}")
        return
    if known.deprecated:
        raise Declined(f"{op} is deprecated in opset {version}")
    if not known.min_input <= inputs <= known.max_input:
        raise Declined(f"{op} takes {known.min_input} to {known.max_input} inputs in opset {version}, not {inputs}")
    for name in attrs:
        if name not in known.attributes:
            raise Declined(f"{op} has no attribute {name} in opset {version}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return Constant.of(value)
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value
