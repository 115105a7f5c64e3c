"""Reduce a model: drop outputs, or extract the nodes between given values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..equivalence import Comparison, Feeds, synthesise
from ..equivalence.runnable import open_runnable
from ..errors import ModelError, OptionError, one_line
from ..ir import DType, Graph, Model, Node, Port, TensorType, Value, captures, clone_model
from .step import Judge, Step, append, drop_uncalled, matching, named, output_names, results, values_by_name, with_graph


@dataclass(frozen=True, slots=True)
class DropOutputs(Step):
    """Remove outputs, by name or pattern, with the nodes that only they need; inputs stay."""

    names: Sequence[str]

    def apply(self, model: Model) -> Model:
        """The model without the outputs. OptionError for an unknown output, or where none would be left."""
        copy = self.expected(model)
        for node in reversed(copy.graph):
            copy.graph.erase_unused(node)
        drop_uncalled(copy)
        return copy

    def expected(self, model: Model) -> Model:
        """The given model with all its nodes, returning only the outputs kept."""
        copy = clone_model(model)
        gone = matching(self.names, output_names(copy), "output")
        kept = [(v, p) for v, p in zip(copy.graph.outputs, copy.graph.ports) if p.name not in gone]
        if not kept:
            raise OptionError("drop: no output would be left")
        copy.graph.set_outputs([v for v, _ in kept], [p for _, p in kept])
        return copy

    def __str__(self) -> str:
        return f"drop {', '.join(self.names)}"


@dataclass(frozen=True, slots=True)
class Extract(Step):
    """The part of a model that computes `outputs` from `inputs`, both by the names of values in the file.

    inputs: empty for the model's own inputs that the outputs need. outputs: empty for the model's own.
    """

    outputs: Sequence[str] = ()
    inputs: Sequence[str] = ()
    alone: ClassVar[bool] = True

    def apply(self, model: Model) -> Model:
        """The extracted model. OptionError for an unknown value, a missing input, or one that the part does not
        read."""
        ends, cut = self._ends(model), self._cut(model)
        nodes, reached = _between([v for _, v in ends], [v for _, v in cut])
        for name, value in cut:
            if value not in reached:
                raise OptionError(f"extract: none of {', '.join(n for n, _ in ends)} is computed from {name!r}")
        own = [v for v in model.graph.inputs if v in reached and all(v is not c for _, c in cut)]
        for value in own if cut else ():
            if value.default is None:
                raise OptionError(f"extract: the part also reads the input {value.name!r}; name it as well")
        graph, values = Graph(model.graph.name), dict[Value, Value]()
        for name, value in (*cut, *((v.name, v) for v in own)):
            values[value] = graph.add_input(Value(value.type, name))
            values[value].default = value.default
        append(graph, (node for node in model.graph.snapshot() if node in nodes), values)
        graph.set_outputs([values[v] for _, v in ends], [Port(name, v.type) for name, v in ends])
        return with_graph(model, graph)

    def judge(self, before: Model, after: Model, feeds: list[Feeds] | None, judge: Judge) -> Comparison:
        """Compare the given model's outputs with the part's, computed from the given model's values at the part's
        inputs."""
        ends = self._ends(before)
        ports = [Port(f"{name}::part", value.type) for name, value in ends]
        own, through = clone_model(before), clone_model(before)
        known = values_by_name(own.graph)
        own.graph.set_outputs([known[name] for name, _ in ends], ports)
        known = values_by_name(through.graph)
        values = {v: known[v.name] for v in after.graph.inputs}
        append(through.graph, after.graph.snapshot(), values, again=True)
        through.graph.set_outputs(results(after.graph, values), ports)
        found = judge.compare(own, through, feeds)
        if found.is_equal and self.inputs:  # the part must also run by itself, with its declared input types
            try:
                open_runnable(after).session(optimize=True).run((self.translate(before, feeds, judge) or [{}])[0])
            except ModelError as error:
                raise ModelError(f"extract: the part does not run where the model does: {one_line(error)}") from error
        return found

    def translate(self, before: Model, feeds: list[Feeds] | None, judge: Judge) -> list[Feeds] | None:
        """The given model's values at the part's inputs; computed on made-up feeds where the caller gave none."""
        cut = self._cut(before)
        own = {v.name for v in before.graph.inputs}
        if not cut:
            return feeds and [_only(feed, self._read(before)) for feed in feeds]
        if feeds is None:
            feeds = synthesise(before, judge.samples, judge.seed)
        inner = [(f"{name}::cut", value) for name, value in cut if name not in own]
        tapped = clone_model(before)
        known = values_by_name(tapped.graph)
        tapped.graph.set_outputs(
            [known[value.name] for _, value in inner] or tapped.graph.outputs,
            [Port(name, value.type) for name, value in inner] or tapped.graph.ports,
        )
        session = open_runnable(tapped).session(optimize=False)
        found = []
        for feed in feeds:
            arrays = session.run(feed) if inner else {}
            found.append({name: feed[name] if name in own else arrays[f"{name}::cut"] for name, _ in cut})
        return found

    def _read(self, model: Model) -> list[str]:
        """The model's inputs that the outputs need."""
        reached = _between([v for _, v in self._ends(model)], [])[1]
        return [v.name for v in model.graph.inputs if v in reached]

    def _ends(self, model: Model) -> list[tuple[str, Value]]:
        known = values_by_name(model.graph)
        if not self.outputs:
            return [(name, known[name]) for name in output_names(model) if name in known]
        ends = [(name, _found(model, known, name)) for name in matching_values(model, known, self.outputs)]
        for name, value in ends:
            if value.producer is None:
                raise OptionError(f"extract: {name!r} is an input of the model, not computed")
        return ends

    def _cut(self, model: Model) -> list[tuple[str, Value]]:
        known = values_by_name(model.graph)
        cut = [(name, _found(model, known, name)) for name in matching_values(model, known, self.inputs)]
        for name, value in cut:
            if value.type is None or (isinstance(value.type, TensorType) and value.type.dtype is DType.UNDEFINED):
                raise OptionError(f"extract: the type of {name!r} is not known, it cannot be an input")
            if name in self.outputs:
                raise OptionError(f"extract: {name!r} cannot be both an input and an output of the part")
        return cut

    def __str__(self) -> str:
        return f"extract {', '.join(self.outputs) or 'the outputs'} from {', '.join(self.inputs) or 'the inputs'}"


def matching_values(model: Model, known: dict[str, Value], names: Sequence[str]) -> list[str]:
    """The value names that match names and patterns. OptionError, which distinguishes weights and nested graphs."""
    constants = {v.name for node in model.graph.snapshot() for v in node.inputs if v is not None and v.constant}
    inside = {v.name for g in model.graph.graphs() if g is not model.graph for n in g for v in n.outputs if v.name}
    for name in names:
        if name not in known and name in constants:
            raise OptionError(f"extract: {name!r} is a constant, it is not computed")
        if name not in known and name in inside:
            raise OptionError(f"extract: {name!r} lies in the body of an If, Loop or Scan; name a value around it")
    return matching(names, known, "value")


def _found(model: Model, known: dict[str, Value], name: str) -> Value:
    return known[named(name, known, "value")]


def _only(feed: Feeds, names: Iterable[str]) -> Feeds:
    return {name: feed[name] for name in names if name in feed}


def _between(ends: Sequence[Value], cut: Sequence[Value]) -> tuple[set[Node], set[Value]]:
    """The nodes between `cut` and `ends`, and every value that they read or that is in `ends`."""
    nodes: set[Node] = set()
    reached: set[Value] = set()
    stop, queue = set(cut), list(ends)
    while queue:
        value = queue.pop()
        if value in reached:
            continue
        reached.add(value)
        node = value.producer
        if value in stop or node is None or node in nodes:
            continue
        nodes.add(node)
        queue.extend(v for v in (*node.inputs, *captures(node)) if v is not None)
    return nodes, reached
