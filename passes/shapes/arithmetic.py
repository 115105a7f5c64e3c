"""Shape arithmetic with symbolic sizes: evaluate vectors computed from shapes as far as the shapes are known.

Facts (`analysis.sizes`) flow forward, into nested graphs too, and make types more precise on the way. A vector of
known numbers becomes a constant; a Reshape with at most one unknown size gets a constant with 0 (copy the size) and -1
(infer the size); an Expand that provably keeps the shape is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...analysis import LONGEST, Sizes, derive_sizes, sizes_of_constant
from ...analysis.operands import is_replaceable
from ...ir import Constant, Dim, Graph, Node, TensorType, Type, Value, refine
from ...ops import attr, reshaped, same_sizes, update_types
from ...pipeline.passes import graph_pass
from ...rewrite import Context


@graph_pass("resolve-shapes")
def resolve_shapes(graph: Graph, context: Context) -> int:
    """Shape(x)[i] = its number; Reshape(x, f(Shape(x))) = Reshape(x, constant with 0 and -1)."""
    return _Resolver(context).run(graph)


@dataclass(slots=True)
class _Resolver:
    context: Context
    facts: dict[Value, Sizes] = field(default_factory=dict)
    retyped: set[Value] = field(default_factory=set)  # values whose type became more precise

    def run(self, graph: Graph) -> int:
        changes = 0
        for node in graph:
            for nested in node.subgraphs:
                changes += self.run(nested)
            if node.subgraphs:
                self._join_branches(node)
                continue
            if (self._is_open(node) or any(v in self.retyped for v in node.inputs)) and update_types(node):
                self.retyped.update(node.outputs)
            if not node.domain:
                changes += self._visit(node)
        return changes

    def _is_open(self, node: Node) -> bool:
        """Whether a type is missing, or a rank in a nested graph, where ONNX's inference ignores outer constants."""
        nested = node.graph is not None and node.graph.owner is not None
        return any(
            v.type is None or (nested and isinstance(v.type, TensorType) and v.type.shape is None) for v in node.outputs
        )

    def _visit(self, node: Node) -> int:
        if node.op == "Reshape":
            return self._reshape(node)
        if node.op == "Expand":
            return self._expand(node)
        if node.op == "ConstantOfShape":
            sizes = self.of(node.inputs[0])
            if sizes is not None and not sizes.scalar:
                self._sharpen(node, sizes.dims)
        if node.op == "Tile" and len(node.inputs) == 2:
            self._tile(node)
        sizes = derive_sizes(node, self.of)
        if sizes is None:
            return 0
        self.facts[node.output] = sizes
        return self._store(node, sizes)

    def of(self, value: Value | None) -> Sizes | None:
        """The known numbers of an integer operand."""
        if value is None:
            return None
        if value.constant is not None:
            return sizes_of_constant(value.constant)
        return self.facts.get(value)

    def _sharpen(self, node: Node, shape: Sequence[Dim]) -> None:
        """Refine the type of the result by `shape`; sizes that are already numbers stay."""
        old = node.output.type
        if not isinstance(old, TensorType):
            return
        new = refine(TensorType(old.dtype, tuple(shape)), old)
        if new != old:
            node.output.type = new
            self.retyped.add(node.output)

    def _join_branches(self, node: Node) -> None:
        """Refine the types of an If's results by the sizes on which both branches agree."""
        branches = node.subgraphs
        if node.op != "If" or any(len(b.outputs) != len(node.outputs) for b in branches):
            return
        for i, value in enumerate(node.outputs):
            joined = _join([b.outputs[i].type for b in branches])
            new = value.type if joined is None else refine(joined, value.type)
            if new != value.type:
                value.type = new
                self.retyped.add(value)

    def _store(self, node: Node, sizes: Sizes) -> int:
        """Replace a vector whose numbers are all known by a constant."""
        type, graph = node.output.type, node.graph
        if not sizes.known or graph is None or not isinstance(type, TensorType) or node.output.is_unused:
            return 0
        constant = Constant.of(sizes.array(type.dtype))
        new = Value(constant=constant, name=node.output.name)
        if not is_replaceable(node.output, new) or not self.context.commit("store-shape", node):
            return 0
        graph.replace_uses(node.output, new)
        graph.erase_unused(node)
        self.retyped.add(new)
        return 1

    def _reshape(self, node: Node) -> int:
        """Give a Reshape constant sizes, where all but one at most are known or equal to the same input axis."""
        graph, wanted, given = node.graph, self.of(node.input(1)), node.inputs[0]
        if graph is None or wanted is None or wanted.scalar or given is None or len(node.inputs) != 2:
            return 0
        before = given.type.shape if isinstance(given.type, TensorType) else None
        literal = bool(attr(node, "allowzero", 0))
        self._sharpen(node, reshaped(before, wanted.dims, literal))
        self.facts.update(self._same_elements(node))
        after = node.output.type.shape if isinstance(node.output.type, TensorType) else None
        if node.constant(1) is not None or (literal and 0 in wanted.dims):
            return 0
        sizes = _as_numbers(wanted.dims, after, before)
        if sizes is None or not self.context.commit("store-reshape", node):
            return 0
        old = node.inputs[1]
        graph.set_input(node, 1, Value(constant=Constant.of(np.array(sizes, np.int64))))
        if literal:
            graph.set_attr(node, "allowzero", None)
        if old is not None and old.producer is not None:
            graph.erase_unused(old.producer)
        if update_types(node):
            self.retyped.update(node.outputs)
        return 1

    def _same_elements(self, node: Node) -> dict[Value, Sizes]:
        """The facts about a Reshape of a vector of sizes into a vector or a scalar."""
        sizes = derive_sizes(node, self.of)
        return {} if sizes is None else {node.output: sizes}

    def _tile(self, node: Node) -> None:
        """Infer a Tile's axes with known repeats; ONNX infers all axes or none."""
        given, repeats = node.inputs[0], self.of(node.inputs[1])
        shape = given.type.shape if given is not None and isinstance(given.type, TensorType) else None
        if shape is not None and repeats is not None and len(repeats.dims) == len(shape):
            self._sharpen(node, [_times(dim, count) for dim, count in zip(shape, repeats.dims)])

    def _expand(self, node: Node) -> int:
        """Drop an Expand whose sizes broadcast to the shape of its operand."""
        graph, wanted, given = node.graph, self.of(node.input(1)), node.inputs[0]
        shape = given.type.shape if given is not None and isinstance(given.type, TensorType) else None
        if graph is None or given is None or wanted is None or wanted.scalar or shape is None:
            return 0
        wide = _broadcast(shape, wanted.dims)
        self._sharpen(node, wide)
        if not same_sizes(wide, shape) or not is_replaceable(node.output, given):
            return 0
        if not self.context.commit("drop-expand", node):
            return 0
        graph.replace_uses(node.output, given)
        graph.erase_unused(node)
        return 1


def _as_numbers(wanted: Sequence[Dim], after: Sequence[Dim] | None, before: Sequence[Dim] | None) -> list[int] | None:
    """Sizes for Reshape: numbers, 0 where the axis keeps its size, -1 for at most one of the others."""
    sizes: list[int] = []
    for axis, dim in enumerate(wanted):
        known = after[axis] if dim in (None, -1) and after is not None else dim
        if isinstance(dim, int) and dim == 0:
            sizes.append(0)
        elif isinstance(known, int) and known > 0:
            sizes.append(known)
        elif known is not None and before is not None and axis < len(before) and before[axis] == known:
            sizes.append(0)
        else:
            sizes.append(-1)
    return sizes if sizes.count(-1) <= 1 and len(sizes) <= LONGEST else None


def _join(types: Sequence[Type | None]) -> TensorType | None:
    """The most precise type that both of two tensor types refine."""
    a, b = types if len(types) == 2 else (None, None)
    if not isinstance(a, TensorType) or not isinstance(b, TensorType) or a.dtype != b.dtype:
        return None
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return None
    return TensorType(a.dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape)))


def _broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    rank = max(len(a), len(b))
    first, second = ((1,) * (rank - len(dims)) + tuple(dims) for dims in (a, b))
    return tuple(_wider(x, y) for x, y in zip(first, second))


def _times(dim: Dim, count: Dim) -> Dim:
    if count == 1:
        return dim
    return dim * count if isinstance(dim, int) and isinstance(count, int) else None


def _wider(a: Dim, b: Dim) -> Dim:
    """One size broadcast with another; a number above 1 wins over any name."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    return next((d for d in (a, b) if isinstance(d, int) and d > 1), None)
