"""Rules: a pattern, and a function that builds its replacement."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Declined
from ..ir import Graph, Node, Value
from .builder import Builder, origins_of
from .context import Context
from .pattern import Mismatch, OpPattern, match, needed_ops

Decline = Declined
"""The name under which a handler returns its refusal with the reason, instead of raising `Declined`."""

Handler = Callable[..., "Value | Sequence[Value] | Declined | None"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Replaces the nodes that `pattern` matches by the nodes that `handler(build, **bound)` builds.

    The parameters of the handler, `wants`, name bindings of the pattern. It returns the value that replaces the root's
    output (or one for each of the root's outputs), or declines: returns or raises a `Declined`, or returns None.
    `exact` is False for a rewrite that changes results beyond rounding; `rounding` marks a rewrite that may change the
    last bit; it is not applied where a quantization follows, which could turn that bit into a whole step. `targets`
    limits a rule to some targets; empty means all. A graph that lacks one of the operators `needs` has no match.
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

    def unavailable(self, graph: Graph, target: str = "portable") -> Declined | None:
        """Why the rule cannot apply anywhere in this graph for this target; None if it can."""
        opset = graph.opsets.get("", 0)
        if not self.min_opset <= opset <= self.max_opset:
            return Declined(f"needs opset {self.min_opset} to {self.max_opset}, the model has {opset}")
        return Declined(f"not for target {target}") if self.targets and target not in self.targets else None

    def apply(self, node: Node, context: Context, made_by: str = "") -> Declined | None:
        """Rewrite the match with root `node`; returns why the rule declined, None after a rewrite."""
        proposal = self._propose(node, context)
        if isinstance(proposal, Declined):
            return proposal
        if not context.commit(self.name, node):
            return Declined("not permitted")
        graph = node.graph
        assert graph is not None
        self._replace(graph, *proposal, made_by or self.name)
        return None

    def attempt(self, node: Node, context: Context) -> Attempt:
        """Try the rule at `node` without editing the graph."""
        assert node.graph is not None
        declined = self.unavailable(node.graph, context.target)
        if declined is not None:
            return Attempt(self, node, 0, declined)
        proposal = self._propose(node, context)
        if isinstance(proposal, Declined):
            fitted = proposal.fitted if isinstance(proposal, Mismatch) else self.pattern.size
            return Attempt(self, node, fitted, proposal)
        return Attempt(self, node, self.pattern.size, None)

    def _propose(self, node: Node, context: Context) -> tuple[list[Node], Builder, Sequence[Value]] | Declined:
        """The matched nodes, the builder of new nodes, and the values that replace the root's outputs."""
        solution = match(self.pattern, node)
        if isinstance(solution, Mismatch):
            return solution
        assert node.graph is not None
        build, bound = Builder(node.graph, context), solution.bound
        try:
            new = self.handler(build, **{name: bound.get(name) for name in self.wants})
        except Declined as declined:
            return declined
        if new is None:
            return Declined("the function returned None: it returns a value, or raises Declined with the reason")
        if isinstance(new, Declined):
            return new
        values = (new,) if isinstance(new, Value) else tuple(new)
        if not all(isinstance(value, Value) for value in values):
            kinds = ", ".join(type(value).__name__ for value in values)
            raise TypeError(f"rule {self.name} returned {kinds}: a value for each output of the root is expected")
        return solution.nodes, build, values

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
    pattern: OpPattern, *, name: str = "", min_opset: int = 1, max_opset: int = 1000, exact: bool = True,
    targets: tuple[str, ...] = (),
) -> Callable[[Handler], Rule]:  # fmt: skip
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
    """One rule for each spelling of the same subgraph: all patterns bind the same names, for one handler.

    The options are those of `rule`.
    """

    def make(handler: Handler) -> tuple[Rule, ...]:
        return tuple(rule(pattern, **options)(handler) for pattern in patterns)

    return make


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rule tried at a node: how many nodes of its pattern matched, and why it declined; None if it would fire."""

    rule: Rule
    node: Node
    fitted: int
    declined: Declined | None


def explain(rules: Sequence[Rule], graph: Graph, context: Context | None = None) -> list[Attempt]:
    """Try each rule at each node with its root's operator, without rewriting."""
    context = context or Context()
    return [
        candidate.attempt(node, context)
        for node in graph.walk()
        for candidate in rules
        if node.op in candidate.pattern.ops
    ]
