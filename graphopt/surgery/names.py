"""Rename inputs and outputs; strip names, doc strings and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..equivalence import Feeds
from ..errors import OptionError
from ..ir import Graph, Model, Node, Port, Value, clone_graph, clone_model
from ..onnx_io.parts.extras import GraphExtras, NodeExtras
from .step import Judge, Step, append, input_names, named, output_names, results, with_graph

PARTS = ("metadata", "docs", "names")
"""What `Strip` removes: entries of metadata_props; doc strings; names of nodes and of inner values."""


@dataclass(frozen=True, slots=True)
class Rename(Step):
    """Rename inputs and outputs, {old: new}; inner values with a new name are renamed."""

    names: Mapping[str, str]

    def apply(self, model: Model) -> Model:
        """The renamed model. OptionError for a name it lacks, or a new name that would occur twice."""
        copy = clone_model(model)
        graph = copy.graph
        inputs, outputs = input_names(copy), output_names(copy)
        for old, new in self.names.items():
            named(old, [*inputs, *outputs], "input or output")
            if not new:
                raise OptionError(f"rename {old!r}: the new name is empty")
        for known in (inputs, outputs, [*inputs, *(n for n in outputs if n not in inputs)]):
            renamed = [self.names.get(name, name) for name in known]
            twice = next((n for n in renamed if renamed.count(n) > max(known.count(n), 1)), None)
            if twice is not None:
                raise OptionError(f"rename: {twice!r} would be there twice")
        for value in graph.inputs:
            value.name = self.names.get(value.name, value.name)
        graph.set_outputs(graph.outputs, self._ports(graph))
        if isinstance(graph.raw, GraphExtras):
            types = {self.names.get(name, name): type for name, type in graph.raw.types.items()}
            graph.raw = replace(graph.raw, types=types)
        return copy

    def expected(self, model: Model) -> Model:
        """The old model with Identity nodes at inputs and outputs that carry the new names."""
        source = clone_graph(model.graph)
        graph = Graph(source.name)
        entered: dict[Value, Value] = {}
        values: dict[Value, Value] = {}
        for value in source.inputs:
            if value.default is not None:
                values[value] = Value(value.type, constant=value.default)
                continue
            entered[value] = graph.add_input(Value(value.type, self.names.get(value.name, value.name)))
            values[value] = graph.append(Node("Identity", [entered[value]], None, [value.type])).output
        append(graph, source.snapshot(), values)
        ends = zip(source.outputs, results(source, values))
        copies = [
            entered[old] if old in entered else graph.append(Node("Identity", [new], None, [new.type])).output
            for old, new in ends
        ]
        graph.set_outputs(copies, self._ports(source))
        return with_graph(model, graph)

    def translate(self, before: Model, feeds: list[Feeds] | None, judge: Judge) -> list[Feeds] | None:
        """The feeds under the new names."""
        return feeds and [{self.names.get(name, name): array for name, array in feed.items()} for feed in feeds]

    def _ports(self, graph: Graph) -> list[Port]:
        return [replace(port, name=self.names.get(port.name, port.name)) for port in graph.ports]

    def __str__(self) -> str:
        return "rename " + ", ".join(f"{old} to {new}" for old, new in self.names.items())


@dataclass(frozen=True, slots=True)
class Strip(Step):
    """Remove descriptive content of a model: any of `PARTS`."""

    parts: Sequence[str] = PARTS

    @property
    def keeps_names(self) -> bool:
        """False without names: derived names may have belonged to other values before."""
        return "names" not in self.parts

    def apply(self, model: Model) -> Model:
        """The model without these parts. Inputs, outputs, functions and sizes keep their names. OptionError."""
        for part in self.parts:
            named(part, PARTS, "part that can be stripped")
        copy = clone_model(model)
        for body in (copy, *(function.body for function in copy.functions.values())):
            for graph in body.graph.graphs():
                self._strip(graph)
            if "names" in self.parts:
                _unname(body.graph)
        if "metadata" in self.parts:
            copy.metadata = {}
        if "docs" in self.parts:
            copy.doc = ""
        return copy

    def _strip(self, graph: Graph) -> None:
        values = [v for node in (*graph.snapshot(), graph.return_node) for v in node.inputs if v is not None]
        values += [*graph.inputs, *(v for node in graph.snapshot() for v in node.outputs)]
        holders: list[Value | Node] = [*values, *graph.snapshot()]
        if "metadata" in self.parts:
            graph.metadata, graph.ports = {}, tuple(replace(port, metadata={}) for port in graph.ports)
            for holder in holders:
                holder.metadata = None
        if "docs" in self.parts:
            graph.doc, graph.ports = "", tuple(replace(port, doc="") for port in graph.ports)
            for holder in holders:
                holder.doc = ""
            for node in graph.snapshot():
                if isinstance(node.raw, NodeExtras):
                    node.raw = replace(node.raw, docs={})

    def __str__(self) -> str:
        return f"strip {', '.join(self.parts)}"


def _unname(root: Graph) -> None:
    """Remove names of nodes and inner values; emission then derives names from operators."""
    root.name = "graph"  # the checker requires a name
    for graph in root.graphs():
        if graph is not root:
            graph.name = "body"
            graph.ports = tuple(replace(port, name="") for port in graph.ports)
            for value in graph.inputs:
                value.name = ""
        if isinstance(graph.raw, GraphExtras):  # annotations refer to names
            graph.raw = replace(graph.raw, annotations=(), pinned={})
        for node in graph.snapshot():
            node.name = ""
            for value in node.outputs:
                value.name = ""
        for node in (*graph.snapshot(), graph.return_node):
            for read in node.inputs:
                if read is not None and read.constant is not None:
                    read.name = ""
