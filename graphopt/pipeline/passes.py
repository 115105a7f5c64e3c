"""What a pass is, and how functions and rules become one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..ir import Graph
from ..rewrite import Rule, apply_rules

Run = Callable[[Graph], "int | bool | None"]


@dataclass(frozen=True, slots=True)
class Pass:
    """A named rewrite of a whole graph.

    `run(graph)` edits the root graph (and what is nested in it) and returns the number of changes. `exact` means that
    results stay equal up to rounding; a lossy pass declares what it may change. A pass made of `rules` runs them to a
    fixpoint. `after` and `before` name the place of a registered pass in the schedule.
    """

    name: str
    run: Run
    exact: bool = True
    rules: tuple[Rule, ...] = ()
    after: str = ""
    before: str = ""
    doc: str = ""
    source: str = field(default="graphopt", compare=False)  # who brought it: graphopt, or a package's name

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.doc.partition("\n")[0]


def graph_pass(name: str, *, exact: bool = True, after: str = "", before: str = "") -> Callable[[Run], Pass]:
    """Turn a function on a graph into a pass."""

    def make(run: Run) -> Pass:
        return Pass(name, run, exact, (), after, before, inspect.getdoc(run) or "", _package(run))

    return make


def rule_pass(name: str, *rules: Rule, after: str = "", before: str = "", doc: str = "") -> Pass:
    """A pass that is rules run to a fixpoint; exact if every rule is."""
    if not rules:
        raise ValueError(f"pass {name!r} has no rules")
    text = doc or "\n".join(f"{r.name}: {r.doc.partition(chr(10))[0]}" for r in rules)
    exact = all(r.exact for r in rules)

    def run(graph: Graph) -> int:
        return apply_rules(graph, rules, name).total()

    return Pass(name, run, exact, rules, after, before, text, _package(rules[0].handler))


def as_pass(item: Any) -> Pass:
    """A pass from what users hand over: a Pass, or a single Rule. TypeError for anything else."""
    if isinstance(item, Pass):
        return item
    if isinstance(item, Rule):
        return rule_pass(item.name.replace("_", "-"), item)
    raise TypeError(f"{type(item).__name__} is not a pass: give a name, a Pass or a Rule")


def _package(function: Any) -> str:
    return str(getattr(function, "__module__", "") or "").partition(".")[0]
