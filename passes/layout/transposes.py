"""Transposes move together through operators that work the same in any order of axes, if fewer Transposes are left.

A region of such operators is permuted as a whole: with v = permute_p(v') for every value in it, a Transpose by p that
feeds the region vanishes, and so does one by the inverse of p that reads it; every other value that enters or leaves
gets one. Cost is the number of Transposes: from the largest region, operators are left out greedily while it falls, and
the region is rewritten if it ends below zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...analysis.operands import POINTWISE, axis_of, integers, shape_of, small_array
from ...ir import RETURN, Array, Constant, Graph, Node, TensorType, Type, Value
from ...ops import version_for
from ...pipeline.passes import graph_pass
from ...rewrite import Context

Perm = tuple[int, ...]

_LARGEST = 120  # operators of a region: a bound on time (leaving operators out is quadratic), see tests.bench.scaling
_FEW = 1024  # the most elements of a constant stored in both orders: 4 KB of float32
_UNARY = frozenset(POINTWISE) - {"Identity"} | {
    "Selu", "Gelu", "Softsign", "ThresholdedRelu", "IsNaN", "IsInf", "Swish",
}  # fmt: skip
_BROADCASTING = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual",
        "And", "Or", "Xor", "Where", "PRelu", "Sum", "Mean",
    )
)  # fmt: skip
_REDUCTIONS = frozenset(
    f"Reduce{kind}"
    for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum")
)  # fmt: skip
_SCALAR_PARAMETERS = frozenset(("Clip", "QuantizeLinear", "DequantizeLinear"))


@graph_pass("cancel-transposes")
def cancel_transposes(graph: Graph, context: Context) -> int:
    """permute_q(f(permute_p(x), permute_p(y))) = f(x, y), for q the inverse of p and f in any order of axes"""
    changes, tried = 0, set[Node]()
    for node in graph.walk():
        perm = _perm(node)
        if perm is None or node in tried or node.output.is_unused:
            continue
        region = _Region.grow(node, perm, tried)
        if region is not None and region.cost() < 0 and context.commit("cancel-transposes", node):
            region.turn()
            changes += 1
            tried.clear()
    return changes


def _perm(node: Node) -> Perm | None:
    perm = node.attrs.get("perm") if node.op == "Transpose" else None
    return tuple(perm) if perm else None


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(int(i) for i in np.argsort(perm))


@dataclass(slots=True)
class _Region:
    """Operators of one graph that are to work on values permuted by `perm`."""

    graph: Graph
    perm: Perm
    nodes: dict[Node, None]

    @classmethod
    def grow(cls, start: Node, perm: Perm, tried: set[Node]) -> _Region | None:
        """The cheapest region behind a Transpose; None if there is none. Transposes before the region join `tried`."""
        graph = start.graph
        assert graph is not None
        region = cls(graph, perm, {})
        queue = list(start.output.users)
        borders: set[Node] = {start}
        while queue:
            node = queue.pop()
            if node in region.nodes or not region.takes(node):
                continue
            region.nodes[node] = None
            if len(region.nodes) > _LARGEST:
                return None
            for value in region.operands(node):
                if value.producer is None:
                    continue
                if _perm(value.producer) == perm:
                    borders.add(value.producer)
                else:
                    queue.append(value.producer)
                    queue.extend(value.users)
            for out in node.outputs:
                queue.extend(user for user in out.users if user.op != RETURN)
                borders.update(user for user in out.users if region.is_sink(user))
        tried.update(node for node in borders if _perm(node) == perm)
        if len(borders) < 2:
            return None  # one Transpose can move, but not vanish
        region.peel()
        return region if region.nodes else None

    def peel(self) -> None:
        """Leave out operators at the border, as long as the cost does not rise."""
        best, improved = self.cost(), True
        while improved and self.nodes:
            improved = False
            for node in list(self.nodes):
                if not self._is_border(node):
                    continue
                del self.nodes[node]
                cost = self.cost()
                if cost < best or (cost == best and not self._touches_source(node)):
                    best, improved = cost, improved or cost < best
                else:
                    self.nodes[node] = None

    def _is_border(self, node: Node) -> bool:
        inner = sum(v.producer in self.nodes for v in self.operands(node))
        used = sum(user in self.nodes for out in node.outputs for user in out.users)
        return inner == 0 or used == 0

    def _touches_source(self, node: Node) -> bool:
        return any(self.is_source(v) for v in self.operands(node))

    def is_source(self, value: Value) -> bool:
        """The value is the result of a Transpose by `perm` of a value outside of the region."""
        node = value.producer
        if node is None or _perm(node) != self.perm or node.inputs[0] is None:
            return False
        return node.inputs[0].producer not in self.nodes

    def is_sink(self, node: Node) -> bool:
        """A Transpose by the inverse, which vanishes if its operand is permuted."""
        return _perm(node) == inverse(self.perm) and node.graph is self.graph and not node.output.is_result

    def takes(self, node: Node) -> bool:
        """The operator works the same in any order of axes."""
        if node.graph is not self.graph or node.domain or any(not _has_rank(v, self.perm) for v in node.outputs):
            return False
        if node.op in _BROADCASTING:
            known = all(v is not None and (_has_rank(v, self.perm) or _spreads(v, self.perm)) for v in node.inputs)
            return known and not any(v is not None and _is_shared_weight(v) for v in node.inputs)
        if not node.inputs or node.inputs[0] is None or not _has_rank(node.inputs[0], self.perm):
            return False
        if node.op in _UNARY:
            return True
        if node.op in _SCALAR_PARAMETERS:
            return (
                all(v is None or shape_of(v) in ((), (1,)) for v in node.inputs[1:]) and "block_size" not in node.attrs
            )
        if node.op == "Concat":
            return all(v is not None and _has_rank(v, self.perm) and not _is_shared_weight(v) for v in node.inputs)
        if node.op == "MatMul":
            return self.perm[-1] == len(self.perm) - 1 and len(shape_of(node.inputs[1]) or ()) == 2
        return node.op in _STEERED and _axes(node, len(self.perm)) is not None

    def operands(self, node: Node) -> Iterator[Value]:
        """The operands of a node that are permuted with it."""
        for slot, value in enumerate(node.inputs):
            turned = node.op in _BROADCASTING or node.op == "Concat" or slot == 0
            if turned and value is not None and value.constant is None and _has_rank(value, self.perm):
                yield value

    # -- cost

    def cost(self) -> int:
        """Transposes added less those removed."""
        total = 0
        entering = {v: None for node in self.nodes for v in self.operands(node) if v.producer not in self.nodes}
        for value in entering:
            if not self.is_source(value):
                total += 1
            elif all(user in self.nodes for user in value.users):
                total -= 1
        for node in self.nodes:
            for out in node.outputs:
                outside = [user for user in out.users if user not in self.nodes]
                sinks = sum(self.is_sink(user) for user in outside)
                total += (len(outside) > sinks) - sinks
        return total

    # -- rewriting

    def turn(self) -> None:
        """Rebuild the region on permuted values."""
        back = inverse(self.perm)
        turned: dict[Value, Value] = {}
        order = [node for node in self.graph if node in self.nodes]
        for node in order:
            inputs = [v if v is None else self._turned(node, slot, v, turned) for slot, v in enumerate(node.inputs)]
            copy = Node(node.op, inputs, dict(node.attrs), [_turn_type(v.type, back) for v in node.outputs])
            copy.name, copy.origins, copy.made_by = node.name, node.origins, node.made_by or "cancel-transposes"
            copy.doc, copy.metadata, copy.raw = node.doc, node.metadata, node.raw
            self.graph.insert_before(node, copy)
            self._steer(node, copy)
            for old, new in zip(node.outputs, copy.outputs):
                new.name = old.name if old.is_unused else ""
                turned[old] = new
        for node in order:
            for old in node.outputs:
                self._leave(node, old, turned[old])
        for node in reversed(order):
            self.graph.erase_unused(node)

    def _turned(self, node: Node, slot: int, value: Value, turned: dict[Value, Value]) -> Value:
        if not (node.op in _BROADCASTING or node.op == "Concat" or slot == 0):
            return value
        if value in turned:
            return turned[value]
        back = inverse(self.perm)
        if value.constant is not None:
            wide = value.constant.array()
            if wide.ndim == 0 or wide.size == 1 == wide.ndim:
                return value
            wide = wide.reshape((1,) * (len(back) - wide.ndim) + wide.shape)
            new = Value(constant=Constant.of(np.ascontiguousarray(wide.transpose(back)), value.constant.dtype))
            new.name = value.name
        elif not _has_rank(value, self.perm):
            return value
        elif self.is_source(value) and value.producer is not None and value.producer.inputs[0] is not None:
            new = value.producer.inputs[0]
        else:
            new = self._transpose(node, value, back)
        turned[value] = new
        return new

    def _leave(self, node: Node, old: Value, new: Value) -> None:
        """Give users of `old` outside the region the value in its original order; `new` replaces a Transpose back."""
        for user in old.users:
            if user not in self.nodes and self.is_sink(user):
                self.graph.replace_uses(user.output, new)
                self.graph.erase(user)
        outside = [use for use in old.uses if use.node not in self.nodes]
        if not outside:
            return
        restored = self._transpose(node, new, self.perm)
        restored.name, restored.doc, restored.metadata = old.name, old.doc, old.metadata
        for use in outside:
            owner = use.node.graph
            assert owner is not None
            owner.set_input(use.node, use.slot, restored)

    def _transpose(self, anchor: Node, value: Value, perm: Perm) -> Value:
        node = Node("Transpose", (value,), {"perm": perm}, [_turn_type(value.type, perm)], name=anchor.name)
        node.origins, node.made_by = anchor.origins, "cancel-transposes"
        return self.graph.insert_before(anchor, node).output

    def _steer(self, old: Node, new: Node) -> None:
        """Set the attributes and inputs that name axes to the new places of the axes."""
        rank = len(self.perm)
        if old.op == "Concat" or (old.op == "Split"):
            axis = axis_of(int(old.attrs.get("axis", 0)), rank)
            self.graph.set_attr(new, "axis", self.perm[0 if axis is None else axis])
            return
        if old.op not in _STEERED:
            return
        axes = [self.perm[a] for a in _axes(old, rank) or ()]
        if old.op == "Pad":
            pads = np.array(integers(old, 1, "pads"), np.int64).reshape(2, rank)[:, list(inverse(self.perm))]
            self._give(new, 1, "pads", pads.reshape(-1))
        elif old.op == "Slice":
            self._give(new, 3, "axes", np.array(axes, np.int64))
        else:
            self._give(new, 1, "axes", np.array(sorted(axes), np.int64))

    def _give(self, node: Node, slot: int, name: str, numbers: Array) -> None:
        if name in node.attrs or (slot >= len(node.inputs) and not _takes_input(node, slot)):
            self.graph.set_attr(node, name, tuple(int(n) for n in numbers))
            return
        inputs = (*node.inputs, *(None,) * (slot + 1 - len(node.inputs)))
        self.graph.set_inputs(node, inputs)
        self.graph.set_input(node, slot, Value(constant=Constant.of(numbers)))


_STEERED = _REDUCTIONS | {"Pad", "Slice", "Split"}
"""Operators that name axes, in an attribute or a constant input."""


def _axes(node: Node, rank: int) -> list[int] | None:
    """The axes that the operator names; None where they are unknown, or it does not keep the rank."""
    if node.op == "Split":
        return [] if node.attrs.get("axis", 0) >= -rank else None
    if node.op == "Pad":
        pads = integers(node, 1, "pads")
        plain = node.input(3) is None and version_for(node) >= 2
        return [] if plain and pads is not None and len(pads) == 2 * rank else None
    if node.op == "Slice":
        starts = integers(node, 1, "starts")
        given = node.input(3) is not None or "axes" in node.attrs
        axes = integers(node, 3, "axes") if given else None if starts is None else list(range(len(starts)))
    else:
        axes = integers(node, 1, "axes") if node.attrs.get("keepdims", 1) else None
        if axes == [] or (node.input(1) is not None and small_array(node, 1) is None):
            return None
    if axes is None:
        return None
    places = [axis_of(axis, rank) for axis in axes]
    return [place for place in places if place is not None] if len(set(places)) == len(axes) else None


def _takes_input(node: Node, slot: int) -> bool:
    """At its opset the operator takes pads or axes as an input, not as an attribute."""
    if node.op == "Slice":
        return version_for(node) >= 10
    if node.op == "Pad":
        return version_for(node) >= 11
    return version_for(node) >= (13 if node.op == "ReduceSum" else 18)


def _has_rank(value: Value, perm: Perm) -> bool:
    shape = shape_of(value)
    return shape is not None and len(shape) == len(perm)


def _is_shared_weight(value: Value) -> bool:
    """A large constant with other users: permuted, it would be stored twice."""
    return value.constant is not None and not value.has_one_use and value.constant.size > _FEW


def _spreads(value: Value, perm: Perm) -> bool:
    """A constant that broadcasts to the rank of the region, or a scalar."""
    shape = shape_of(value)
    return shape == () or (shape is not None and len(shape) <= len(perm) and value.constant is not None)


def _turn_type(type: Type | None, perm: Perm) -> Type | None:
    if not isinstance(type, TensorType) or type.shape is None or len(type.shape) != len(perm):
        return type
    return TensorType(type.dtype, tuple(type.shape[i] for i in perm))
