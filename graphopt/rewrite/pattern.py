"""Patterns: descriptions of a subgraph, matched upwards from the value it computes.

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

from ..errors import Declined
from ..ir import Node, Value
from ..ops import attr, check_operator

COMMUTATIVE = frozenset(
    ("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Matches an operand: any value, a constant, or the value already bound under the same name.

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
        """The number of nodes in the pattern."""
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


def check_operators(pattern: OpPattern) -> None:
    """OptionError with the nearest name for an operator of the pattern that ONNX never had. Imports onnx."""
    for name in pattern.ops:
        check_operator(name)
    for operand in pattern.inputs:
        if isinstance(operand, OpPattern):
            check_operators(operand)


def needed_ops(pattern: OpPattern) -> frozenset[str]:
    """Operators that every match contains; alternatives such as op("Add", "Sub") are left out."""
    inner = (needed_ops(p) for p in pattern.inputs if isinstance(p, OpPattern))
    return frozenset(pattern.ops if len(pattern.ops) == 1 else ()).union(*inner)


def any_value(name: str = "", *, optional: bool = False) -> Leaf:
    """Any value; bound as a `Value`. The same name twice means the same value."""
    return Leaf(name, "value", optional)


def same(name: str) -> Leaf:
    """The value bound under `name` elsewhere in the pattern."""
    return Leaf(name, "value")


def constant(name: str = "", *, optional: bool = False, equals: float | None = None, rtol: float = 1e-5) -> Leaf:
    """A constant, bound as its numpy array. `equals`: a single element close to this number."""
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
    """The bindings of a pattern (names to values, arrays or nodes), and the nodes it covers, root first."""

    bound: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    shared: set[Node] = field(default_factory=set)

    def copy(self) -> Match:
        """A copy on which to try an alternative."""
        return Match(dict(self.bound), list(self.nodes), set(self.shared))


Goal = tuple[Pattern, "Value | None"]
"""A pattern, and the operand it must match."""


class Mismatch(Declined):
    """Why a pattern does not match: of all operand orders, the failure after the most matched nodes.

    place: the node that failed. fitted: the number of the pattern's nodes that had matched before.
    """

    def __init__(self, root: Node) -> None:  # most matches fail: this spares them two calls
        self.reason, self.place, self.fitted = "no operand order fits", root, 0

    def note(self, trial: Match, reason: str, place: Node | None = None) -> None:
        """Keep a failure, by default at the node matched last, unless another trial got further."""
        if len(trial.nodes) >= self.fitted:
            self.fitted, self.reason, self.place = len(trial.nodes), reason, place or trial.nodes[-1]


def match(pattern: OpPattern, node: Node) -> Match | Mismatch:
    """Match `pattern` with `node` as its root."""
    miss = Mismatch(node)
    solution = _match_node(pattern, node, Match(), [], miss)
    if solution is None:
        return miss
    user = _outside_user(solution)
    if user is None:
        return solution
    miss.note(solution, f"a result is also used by {user.op}", user)
    return miss


OperandPrefilter = tuple[tuple[int, "frozenset[str] | None"], ...]
"""Slots, and the operators that may compute them; None for a slot that holds a constant."""


def operand_prefilter(pattern: OpPattern) -> OperandPrefilter:
    """The conditions of a pattern on the operands of its root that can be checked without matching."""
    wanted: list[tuple[int, frozenset[str] | None]] = []
    for slot, operand in enumerate(pattern.inputs):
        if isinstance(operand, OpPattern):
            wanted.append((slot, frozenset(operand.ops)))
        elif operand.kind != "value" and not operand.optional:
            wanted.append((slot, None))
    return tuple(wanted)


def may_match(wanted: OperandPrefilter, node: Node) -> bool:
    """Whether the operands of `node` allow a match. Most attempts end here, far cheaper than a match."""
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


def _outside_user(solution: Match) -> Node | None:
    """A node outside the match that reads an inner value, which forbids the rewrite; None without one."""
    inside = set(solution.nodes)
    for inner in solution.nodes[1:]:
        if inner in solution.shared:
            continue
        for value in inner.outputs:
            for use in value.uses:
                if use.node not in inside:
                    return use.node
    return None


def _solve(goals: list[Goal], trial: Match, miss: Mismatch) -> Match | None:
    """Match all goals, depth first; returns the trial with all bindings, or None after a note in `miss`."""
    if not goals:
        return trial
    (pattern, value), rest = goals[0], goals[1:]
    if isinstance(pattern, Leaf):
        why = _bind_leaf(pattern, value, trial)
        if why:
            miss.note(trial, why)
            return None
        return _solve(rest, trial, miss)
    node = None if value is None else value.producer
    if node is None or value is None:
        miss.note(trial, f"an operand is not computed by {'/'.join(pattern.ops)}")
        return None
    if node.graph is not trial.nodes[0].graph:
        miss.note(trial, f"{node.op} is in another graph", node)
        return None
    if value.index != (pattern.index or 0):
        miss.note(trial, f"output {value.index} of {node.op} is used, not {pattern.index or 0}", node)
        return None
    return _match_node(pattern, node, trial, rest, miss)


def _match_node(pattern: OpPattern, node: Node, trial: Match, rest: list[Goal], miss: Mismatch) -> Match | None:
    why = _refuse(pattern, node, trial)
    if why:
        miss.note(trial, why, node)
        return None
    trial.nodes.append(node)
    if pattern.shared:
        trial.shared.add(node)
    if pattern.name:
        trial.bound[pattern.name] = node
    orders = [node.inputs]
    if len(node.inputs) == 2 and node.op in COMMUTATIVE and node.inputs[0] is not node.inputs[1]:
        orders.append(node.inputs[::-1])
    for operands in orders:
        padded = operands + (None,) * (len(pattern.inputs) - len(operands))
        branch = trial if operands is orders[-1] else trial.copy()
        solution = _solve([*zip(pattern.inputs, padded), *rest], branch, miss)
        if solution is not None:
            return solution
    return None


def _refuse(pattern: OpPattern, node: Node, trial: Match) -> str:
    """Why a node does not fit a pattern, operands aside; "" if it fits."""
    if node.op not in pattern.ops:
        return f"{node.op} is not {'/'.join(pattern.ops)}"
    if len(node.inputs) > len(pattern.inputs) and any(v is not None for v in node.inputs[len(pattern.inputs) :]):
        return f"{node.op} has {len(node.inputs)} inputs"
    if pattern.name and trial.bound.get(pattern.name, node) is not node:
        return f"{pattern.name} is another node"
    if pattern.index is None and any(not v.is_unused for v in node.outputs[1:]):
        return f"{node.op} has more than one output in use"
    for key, wanted in pattern.attrs:
        actual = attr(node, key)
        if not (wanted(actual) if callable(wanted) else actual == wanted):
            return f"{node.op} has {key}={actual!r}"
    return ""


def _bind_leaf(leaf: Leaf, value: Value | None, trial: Match) -> str:
    """Bind a value to a leaf; returns why the value does not fit, "" if it fits."""
    if value is None:
        if not leaf.optional:
            return f"operand {leaf.name!r} is missing"
        return "" if trial.bound.setdefault(leaf.name, None) is None else f"{leaf.name} is another value"
    if leaf.kind == "value":
        is_same = not leaf.name or trial.bound.setdefault(leaf.name, value) is value
        return "" if is_same else f"{leaf.name} is another value"
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
        return "" if trial.bound.setdefault(leaf.name, value) is value else f"{leaf.name} is another value"
    array = value.constant.array()
    known: Any = trial.bound.setdefault(leaf.name, array)
    is_same = known is array or (isinstance(known, np.ndarray) and np.array_equal(known, array))
    return "" if is_same else f"{leaf.name} is another constant"
