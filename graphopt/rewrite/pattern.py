"""Patterns: descriptions of a piece of a graph, matched upwards from the value it computes.

    op.Mul(op.Sigmoid(any_value("x")), same("x"))
    op.Conv(any_value("x"), weight("w"), constant("b", optional=True), group=1, name="conv")
    op("Add", "Sub")(any_value("x"), constant("c"))              either operator
    op["com.microsoft::Gelu"](any_value("x"))                    another domain
    op.Split(any_value("x"), name="split").out(1)                one of several outputs

Operands of commutative operators match in either order. Keyword arguments other than `name` and `shared` constrain
attributes (a value, or a predicate on it); an attribute that is absent has the schema's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..ir import Node, Value
from ..ops import attr

COMMUTATIVE = frozenset(
    ("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
)
Predicate = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Leaf:
    """Matches a value: any one, or a constant, or the one bound before under the same name.

    kind: "value" binds the Value; "weight" a constant Value (its array stays unread); "constant" the numpy array.
    """

    name: str = ""
    kind: str = "value"
    optional: bool = False
    equals: float | None = None
    rtol: float = 1e-5


@dataclass(frozen=True, slots=True)
class OpPattern:
    """Matches a node by one of its outputs. `shared` lets the inner value have other users (the node then stays)."""

    ops: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    name: str = ""
    shared: bool = False
    index: int | None = None

    def out(self, index: int) -> OpPattern:
        """The pattern of output `index`; the other outputs may have users of their own if the pattern is shared."""
        return replace(self, index=index)

    @property
    def depth(self) -> int:
        """Nodes on the longest path from the root to a leaf."""
        return 1 + max((p.depth for p in self.inputs if isinstance(p, OpPattern)), default=0)

    @property
    def size(self) -> int:
        """Nodes the pattern describes."""
        return 1 + sum(p.size for p in self.inputs if isinstance(p, OpPattern))

    def names(self) -> Iterator[str]:
        """Every name the pattern binds."""
        if self.name:
            yield self.name
        for pattern in self.inputs:
            if isinstance(pattern, OpPattern):
                yield from pattern.names()
            elif pattern.name:
                yield pattern.name


Pattern = Leaf | OpPattern


def needed_ops(pattern: OpPattern) -> frozenset[str]:
    """Operators without which nothing matches; where the pattern leaves a choice, none of the choice."""
    inner = (needed_ops(p) for p in pattern.inputs if isinstance(p, OpPattern))
    return frozenset(pattern.ops if len(pattern.ops) == 1 else ()).union(*inner)


def any_value(name: str = "", *, optional: bool = False) -> Leaf:
    """Any value; bound as a `Value`. The same name twice means the same value."""
    return Leaf(name, "value", optional)


def same(name: str) -> Leaf:
    """The value bound under `name` elsewhere in the pattern."""
    return Leaf(name, "value")


def constant(name: str = "", *, optional: bool = False, equals: float | None = None, rtol: float = 1e-5) -> Leaf:
    """A constant; bound as its numpy array. `equals` wants a single element of about this number."""
    return Leaf(name, "constant", optional, equals, rtol)


def weight(name: str = "", *, optional: bool = False) -> Leaf:
    """A constant; bound as a `Value` whose array is not read."""
    return Leaf(name, "weight", optional)


class _Ops:
    """`op.Conv(x, w)` matches a Conv node; `op("Add", "Sub")(…)` either; `op["ns::Name"](…)` another domain's."""

    def __getattr__(self, op: str) -> Callable[..., OpPattern]:
        if op.startswith("__"):
            raise AttributeError(op)
        return self(op)

    def __getitem__(self, op: str) -> Callable[..., OpPattern]:
        return self(op)

    def __call__(self, *ops: str) -> Callable[..., OpPattern]:
        def make(*inputs: Pattern, name: str = "", shared: bool = False, **attrs: Any) -> OpPattern:
            return OpPattern(ops, inputs, tuple(attrs.items()), name, shared)

        return make


op = _Ops()


@dataclass(slots=True)
class Match:
    """What a pattern bound: names to values, arrays or nodes; and the nodes it covers, root first."""

    bound: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    shared: set[Node] = field(default_factory=set)

    def copy(self) -> Match:
        """A match to try an alternative on."""
        return Match(dict(self.bound), list(self.nodes), set(self.shared))


Goal = tuple[Pattern, "Value | None"]


class Mismatch:
    """Why nothing matched: of all that was tried, what failed after the most nodes had fitted."""

    __slots__ = ("fitted", "reason")

    def __init__(self) -> None:
        self.fitted, self.reason = 0, "no operand order fits"

    def note(self, found: Match, reason: str) -> None:
        """Remember a failure unless another attempt got further."""
        if len(found.nodes) >= self.fitted:
            self.fitted, self.reason = len(found.nodes), reason


def match(pattern: OpPattern, node: Node) -> Match | str:
    """Match `pattern` with `node` as its root; a string says why not."""
    found = attempt(pattern, node)
    return found.reason if isinstance(found, Mismatch) else found


def attempt(pattern: OpPattern, node: Node) -> Match | Mismatch:
    """Match `pattern` with `node` as its root, or tell how far it fitted."""
    miss = Mismatch()
    found = _match_node(pattern, node, Match(), [], miss)
    if found is None:
        return miss
    escaped = escape(found)
    if escaped:
        miss.note(found, escaped)
        return miss
    return found


OperandPrefilter = tuple[tuple[int, "frozenset[str] | None"], ...]
"""Slots, and the operators that may compute them; None for a slot that holds a constant."""


def operand_prefilter(pattern: OpPattern) -> OperandPrefilter:
    """What a pattern asks of the operands of its root, as far as it can be told without matching."""
    wanted: list[tuple[int, frozenset[str] | None]] = []
    for slot, operand in enumerate(pattern.inputs):
        if isinstance(operand, OpPattern):
            wanted.append((slot, frozenset(operand.ops)))
        elif operand.kind != "value" and not operand.optional:
            wanted.append((slot, None))
    return tuple(wanted)


def may_match(wanted: OperandPrefilter, node: Node) -> bool:
    """False where the operands of `node` rule a match out. Most attempts end here, at a fraction of a match's cost."""
    inputs = node.inputs
    either = node.op in COMMUTATIVE
    for slot, ops in wanted:
        for value in inputs if either else inputs[slot : slot + 1]:
            if value is None:
                continue
            if ops is None:
                if value.constant is not None:
                    break
            elif value.producer is not None and value.producer.op in ops:
                break
        else:
            return False
    return True


def escape(found: Match) -> str:
    """Why the matched nodes cannot go: an inner value has users outside of the match. Empty if they can."""
    inside = set(found.nodes)
    for inner in found.nodes[1:]:
        if inner in found.shared:
            continue
        for value in inner.outputs:
            for use in value.uses:
                if use.node not in inside:
                    return f"the result of {inner!r} is also used by {use.node!r}"
    return ""


def _solve(goals: list[Goal], found: Match, miss: Mismatch) -> Match | None:
    if not goals:
        return found
    (pattern, value), rest = goals[0], goals[1:]
    if isinstance(pattern, Leaf):
        why = _bind_leaf(pattern, value, found)
        if why:
            miss.note(found, why)
            return None
        return _solve(rest, found, miss)
    node = None if value is None else value.producer
    if node is None or value is None:
        miss.note(found, f"an operand is not computed by {'/'.join(pattern.ops)}")
        return None
    if node.graph is not found.nodes[0].graph:
        miss.note(found, f"{node!r} is in another graph")
        return None
    if value.index != (pattern.index or 0):
        miss.note(found, f"output {value.index} of {node!r} is used, not {pattern.index or 0}")
        return None
    return _match_node(pattern, node, found, rest, miss)


def _match_node(pattern: OpPattern, node: Node, found: Match, rest: list[Goal], miss: Mismatch) -> Match | None:
    why = _refuse(pattern, node, found)
    if why:
        miss.note(found, why)
        return None
    found.nodes.append(node)
    if pattern.shared:
        found.shared.add(node)
    if pattern.name:
        found.bound[pattern.name] = node
    orders = [node.inputs]
    if len(node.inputs) == 2 and node.op in COMMUTATIVE and node.inputs[0] is not node.inputs[1]:
        orders.append(node.inputs[::-1])
    for operands in orders:
        padded = operands + (None,) * (len(pattern.inputs) - len(operands))
        trial = found if len(orders) == 1 else found.copy()
        solved = _solve([*zip(pattern.inputs, padded), *rest], trial, miss)
        if solved is not None:
            return solved
    return None


def _refuse(pattern: OpPattern, node: Node, found: Match) -> str:
    if node.op not in pattern.ops:
        return f"{node!r} is not {'/'.join(pattern.ops)}"
    if len(node.inputs) > len(pattern.inputs) and any(v is not None for v in node.inputs[len(pattern.inputs) :]):
        return f"{node!r} has {len(node.inputs)} inputs"
    if pattern.name and found.bound.get(pattern.name, node) is not node:
        return f"{pattern.name} is another node"
    if pattern.index is None and any(not v.is_unused for v in node.outputs[1:]):
        return f"{node!r} has more than one output in use"
    for key, wanted in pattern.attrs:
        actual = attr(node, key)
        if not (wanted(actual) if callable(wanted) else actual == wanted):
            return f"{node!r} has {key}={actual!r}"
    return ""


def _bind_leaf(leaf: Leaf, value: Value | None, found: Match) -> str:
    if value is None:
        if not leaf.optional:
            return f"operand {leaf.name!r} is missing"
        return "" if found.bound.setdefault(leaf.name, None) is None else f"{leaf.name} is another value"
    if leaf.kind == "value":
        return (
            ""
            if not leaf.name or found.bound.setdefault(leaf.name, value) is value
            else f"{leaf.name} is another value"
        )
    if value.constant is None:
        return f"operand {leaf.name!r} is not constant"
    if leaf.equals is not None:
        if value.constant.size != 1 or not value.constant.dtype.is_float | value.constant.dtype.is_integer:
            return f"a constant is not the number {leaf.equals:g}"
        number = float(value.constant.array().reshape(()))
        if abs(number - leaf.equals) > leaf.rtol * abs(leaf.equals):
            return f"a constant is {number:g}, not {leaf.equals:g}"
    if not leaf.name:
        return ""
    if leaf.kind == "weight":
        return "" if found.bound.setdefault(leaf.name, value) is value else f"{leaf.name} is another value"
    array = value.constant.array()
    known: Any = found.bound.setdefault(leaf.name, array)
    same_array = known is array or (isinstance(known, np.ndarray) and np.array_equal(known, array))
    return "" if same_array else f"{leaf.name} is another constant"
