"""Passes, and their construction from functions and rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from ..ir import Graph
from ..rewrite import Context, Rule, apply_rules
from ..rewrite.pattern import check_operators

Run = Callable[[Graph, Context], "int | bool | None"]
GraphFunction = Callable[..., "int | bool | None"]
"""A function of a graph and a context, or of a graph alone; returns the number of changes."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A named rewrite of a whole graph.

    `run(graph, context)` edits the root graph and the graphs nested in it, calls `context.commit` before each change,
    and returns the number of changes. `exact`: results stay equal up to rounding. A pass made of `rules` runs them to a
    fixpoint. `after` and `before` name the place of a registered pass in the schedule.
    """

    name: str
    run: Run
    exact: bool = True
    rules: tuple[Rule, ...] = ()
    after: str = ""
    before: str = ""
    doc: str = ""
    source: str = field(default="graphopt", compare=False)  # the pass's package

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.doc.partition("\n")[0]


def graph_pass(name: str, *, exact: bool = True, after: str = "", before: str = "") -> Callable[[GraphFunction], Pass]:
    """Turn a function `f(graph, context)` or `f(graph)` into a pass; all changes of the latter count as one rewrite."""

    def make(function: GraphFunction) -> Pass:
        return Pass(
            name, _with_context(function), exact, (), after, before, inspect.getdoc(function) or "", _package(function)
        )

    return make


def rule_pass(name: str, *rules: Rule, after: str = "", before: str = "", doc: str = "") -> Pass:
    """A pass that runs rules to a fixpoint; exact if every rule is."""
    if not rules:
        raise ValueError(f"pass {name!r} has no rules")
    text = doc or "\n".join(f"{r.name}: {r.doc.partition(chr(10))[0]}" for r in rules)
    exact = all(r.exact for r in rules)

    def run(graph: Graph, context: Context) -> int:
        return apply_rules(graph, rules, name, context).total()

    return Pass(name, run, exact, rules, after, before, text, _package(rules[0].handler))


def as_pass(item: Pass | Rule) -> Pass:
    """A pass from a Pass or a single Rule. TypeError for any other object, OptionError for an unknown operator."""
    if isinstance(item, Pass):
        return item
    if isinstance(item, Rule):
        check_operators(item.pattern)
        return rule_pass(item.name.replace("_", "-"), item)
    raise TypeError(f"{type(item).__name__} is not a pass: give a name, a Pass or a Rule")


def _with_context(function: GraphFunction) -> Run:
    """The function as one of a graph and a context."""
    if len(inspect.signature(function).parameters) > 1:
        return function

    def run(graph: Graph, context: Context) -> int | bool | None:
        return function(graph)

    return run


def _package(function: object) -> str:
    return str(getattr(function, "__module__", "") or "").partition(".")[0]
