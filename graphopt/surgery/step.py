"""One step of an edit, and helpers of all steps: name lookup with suggestions, values by name, copies of graphs."""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..equivalence import Comparison, Feeds, compare
from ..errors import OptionError, did_you_mean
from ..ir import FunctionId, Graph, Model, Node, Value, clone_graph, clone_model, clone_node
from ..onnx_io import infer_types

_LISTED = 6
"""Names that an error lists: about a line of them."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Validates steps, on `samples` made-up feeds of this `seed` where the caller gave none."""

    samples: int = 4
    seed: int = 0

    def compare(self, expected: Model, edited: Model, feeds: Sequence[Feeds] | None, inner: bool = True) -> Comparison:
        """Compare two models of one interface; `inner` values too, where equal names mean equal values."""
        return compare(expected, edited, feeds, self.samples, seed=self.seed, power=False, intermediates=inner)


class Step(ABC):
    """One edit. No method changes the models it is given.

    alone: the step is compared by itself, with `judge`; consecutive other steps are compared together.
    """

    alone: ClassVar[bool] = False

    @property
    def keeps_names(self) -> bool:
        """Whether inner values with equal names before and after the step are equal."""
        return True

    @abstractmethod
    def apply(self, model: Model) -> Model:
        """The edited model. OptionError where the step does not fit the model."""

    def expected(self, model: Model) -> Model:
        """The specification of the edited model: the given model with plain nodes around it."""
        return model

    def judge(self, before: Model, after: Model, feeds: list[Feeds] | None, judge: Judge) -> Comparison:
        """Compare the models before and after this step alone; `feeds` are those of the model before."""
        return judge.compare(self.expected(before), after, self.translate(before, feeds, judge))

    def translate(self, before: Model, feeds: list[Feeds] | None, judge: Judge) -> list[Feeds] | None:
        """Feeds of the model before, converted to the model after; None to make up feeds."""
        return feeds


def named(name: str, known: Iterable[str], what: str) -> str:
    """The name, if known. OptionError otherwise, with the closest known name."""
    names = list(known)
    if name in names:
        return name
    listed = ", ".join(map(repr, names[:_LISTED])) + (f" and {len(names) - _LISTED} more" * (len(names) > _LISTED))
    raise OptionError(f"there is no {what} {name!r}{did_you_mean(name, names)}: the model has {listed or 'none'}")


def matching(patterns: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """The known names that patterns such as `present.*` match, each once; literal names win. OptionError for no
    match."""
    names = list(known)
    found: dict[str, None] = {}
    for pattern in patterns:
        is_pattern = pattern not in names and any(mark in pattern for mark in "*?")
        fitting = [n for n in names if fnmatch.fnmatchcase(n, pattern.replace("[", "[[]"))] if is_pattern else []
        found.update(dict.fromkeys(fitting or [named(pattern, names, what)]))
    return list(found)


def input_names(model: Model) -> list[str]:
    """The names of the required inputs, then of inputs with a default."""
    return [v.name for v in sorted(model.graph.inputs, key=lambda v: v.default is not None)]


def output_names(model: Model) -> list[str]:
    """The names of the outputs in order."""
    return [port.name for port in model.graph.ports]


def values_by_name(graph: Graph) -> dict[str, Value]:
    """Inputs and computed values of a root graph by their names in the file, results by output names."""
    values = {value.name: value for value in graph.inputs}
    for port, value in zip(graph.ports, graph.outputs):
        if value.constant is None:
            values.setdefault(port.name, value)
    for node in graph:
        for value in node.outputs:
            if value.name:
                values.setdefault(value.name, value)
    return values


def with_graph(model: Model, graph: Graph) -> Model:
    """The model with another root graph, its types inferred, and only the functions that it calls."""
    copy = replace(clone_model(model), graph=graph)
    drop_uncalled(copy)
    infer_types(copy)
    return copy


def reentered(model: Model, enter: Callable[[Graph, Value], Value]) -> Model:
    """The model with other inputs: `enter(graph, v)` adds the replacement of input v to the new graph, and returns
    it."""
    source = clone_graph(model.graph)
    graph, values = Graph(source.name), dict[Value, Value]()
    for value in source.inputs:
        values[value] = enter(graph, value)
    append(graph, source.snapshot(), values)
    graph.set_outputs(results(source, values), source.ports)
    graph.doc, graph.metadata, graph.raw = source.doc, source.metadata, source.raw
    return with_graph(model, graph)


def same_input(graph: Graph, value: Value) -> Value:
    """Copies an input unchanged."""
    copy = graph.add_input(Value(value.type, value.name))
    copy.default, copy.doc, copy.metadata = value.default, value.doc, value.metadata
    return copy


def append(graph: Graph, nodes: Iterable[Node], values: dict[Value, Value], *, again: bool = False) -> None:
    """Append copies of nodes that read `values[v]` in place of v; adds the copies' outputs to `values`.

    again: the graph contains the original nodes, so the copies get no names.
    """
    for node in nodes:
        copy = graph.append(clone_node(node, values))
        if again:
            copy.name = ""


def results(graph: Graph, values: Mapping[Value, Value]) -> list[Value]:
    """The copies of a graph's results, after copying its nodes; constants are copied here."""
    return [values[v] if v in values else Value(v.type, v.name, constant=v.constant) for v in graph.outputs]


def drop_uncalled(model: Model) -> None:
    """Remove the functions that no node of the model calls, directly or through other functions."""
    called: set[FunctionId] = set()
    queue = [model.graph]
    while queue:
        for node in queue.pop().walk():
            key = FunctionId(node.domain, node.op_type, node.overload)
            if key in model.functions and key not in called:
                called.add(key)
                queue.append(model.functions[key].body.graph)
    model.functions = {key: function for key, function in model.functions.items() if key in called}
