"""Rules: a pattern, and a function that says what to put in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Declined
from ..ir import Graph, Node, Value
from .builder import Builder, origins_of
from .context import Context
from .pattern import Mismatch, OpPattern, attempt, match, needed_ops


@dataclass(frozen=True, slots=True)
class Decline:
    """What a handler returns to refuse a match, with the reason; None refuses without one."""

    reason: str


Handler = Callable[..., "Value | Sequence[Value] | Decline | None"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite of what `pattern` matches into what `handler(build, **bound)` returns.

    The handler asks for bound names by its parameters. It returns the value that replaces the root's output (or one
    for each of the root's outputs), None or a `Decline`. `exact` is False for a rewrite that changes results beyond
    rounding; `rounding` marks one that may change the last bit, which is not done where a later quantization would
    make a whole step of it. `targets` limits a rule to some targets; empty means all. A graph without all of `needs`
    has no match.
    """

    name: str
    pattern: OpPattern
    handler: Handler
    min_opset: int = 1
    max_opset: int = 1000
    exact: bool = True
    targets: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    rounding: bool = False

    @property
    def doc(self) -> str:
        """The rule's equation."""
        return inspect.getdoc(self.handler) or ""

    def refuses(self, graph: Graph, target: str = "portable") -> str:
        """Why the rule cannot run on this graph for this target at all; empty if it can."""
        opset = graph.opsets.get("", 0)
        if not self.min_opset <= opset <= self.max_opset:
            return f"needs opset {self.min_opset} to {self.max_opset}, the model has {opset}"
        return f"not for target {target}" if self.targets and target not in self.targets else ""

    def apply(self, node: Node, context: Context, made_by: str = "") -> str:
        """Rewrite what matches at `node`; returns "" when it did, else the reason why not."""
        found = match(self.pattern, node)
        if isinstance(found, str):
            return found
        graph = node.graph
        assert graph is not None
        build = Builder(graph, context)
        try:
            new = self.handler(build, **{name: found.bound.get(name) for name in self.wants})
        except Declined as declined:
            return str(declined)
        if new is None or isinstance(new, Decline):
            return new.reason if isinstance(new, Decline) else "declined"
        values = (new,) if isinstance(new, Value) else tuple(new)
        if not context.commit(self.name, node):
            return "not permitted"
        self._replace(graph, found.nodes, build, values, made_by or self.name)
        return ""

    def _replace(
        self, graph: Graph, matched: list[Node], build: Builder, values: Sequence[Value], made_by: str
    ) -> None:
        root = matched[0]
        origins = origins_of(*matched)
        for domain, version in build.imports.items():
            graph.opsets.setdefault(domain, version)
        for node in build.nodes:
            node.origins, node.made_by = origins, made_by
            if node.output is values[0]:
                node.name = node.name or root.name
            graph.insert_before(root, node)
        for old, value in zip(root.outputs, values):
            graph.replace_uses(old, value)
        for node in matched:
            graph.erase_unused(node)
        for node in reversed(build.nodes):
            graph.erase_unused(node)


def rule(
    pattern: OpPattern,
    *,
    name: str = "",
    min_opset: int = 1,
    max_opset: int = 1000,
    exact: bool = True,
    targets: tuple[str, ...] = (),
) -> Callable[[Handler], Rule]:
    """Turn a function into a rule. Its docstring is the rule's equation.

    TypeError if a parameter of the function (other than `build`, the first) names nothing in the pattern.
    """

    def make(handler: Handler) -> Rule:
        wants = tuple(inspect.signature(handler).parameters)[1:]
        unknown = set(wants) - set(pattern.names())
        label = name or getattr(handler, "__name__", "rule")
        if unknown:
            raise TypeError(f"rule {label}: the pattern binds no {', '.join(sorted(unknown))}")
        return Rule(label, pattern, handler, min_opset, max_opset, exact, targets, wants, needed_ops(pattern))

    return make


def spellings(*patterns: OpPattern, **options: Any) -> Callable[[Handler], tuple[Rule, ...]]:
    """One rule for each way to write the same thing: the patterns bind the same names for one function.

    The options are those of `rule`.
    """

    def make(handler: Handler) -> tuple[Rule, ...]:
        return tuple(rule(pattern, **options)(handler) for pattern in patterns)

    return make


def explain(rules: Sequence[Rule], graph: Graph, context: Context | None = None) -> list[tuple[Rule, Node, int, str]]:
    """Where rules almost fire: each rule at each node of its root operator, how many nodes fitted, and what failed.

    Nothing is rewritten: the rewrite is built and dropped. A rule that would fire has the reason "".
    """
    context = context or Context()
    misses: list[tuple[Rule, Node, int, str]] = []
    for node in graph.walk():
        for candidate in rules:
            if node.op in candidate.pattern.ops:
                refused = candidate.refuses(graph, context.target)
                misses.append((candidate, node, *((0, refused) if refused else _dry(candidate, node, context))))
    return misses


def _dry(candidate: Rule, node: Node, context: Context) -> tuple[int, str]:
    found = attempt(candidate.pattern, node)
    if isinstance(found, Mismatch):
        return found.fitted, found.reason
    assert node.graph is not None
    try:
        new = candidate.handler(
            Builder(node.graph, context), **{name: found.bound.get(name) for name in candidate.wants}
        )
    except Declined as declined:
        return len(found.nodes), str(declined)
    if new is None or isinstance(new, Decline):
        return len(found.nodes), new.reason if isinstance(new, Decline) else "declined"
    return len(found.nodes), ""
