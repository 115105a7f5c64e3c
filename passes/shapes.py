"""Shape arithmetic with symbolic sizes: what is computed from shapes is resolved as far as it is known.

Facts are vectors of sizes (numbers, names, unknown) that flow forward through Shape, Gather, Slice, Concat, Squeeze,
Unsqueeze, Cast and integer arithmetic, into nested graphs too. A vector of numbers becomes a constant; a Reshape whose
sizes are known but for one gets a constant with 0 (copy the size) and -1 (what is left).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir import Constant, Dim, DType, Graph, Node, TensorType, Value
from ..ops import attr, update_types
from ..pipeline.passes import graph_pass
from .identity import is_replaceable

_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is known of an integer vector, or of a single number where `scalar`."""

    dims: tuple[Dim, ...]
    scalar: bool = False

    @property
    def known(self) -> bool:
        """Every element is a number."""
        return all(isinstance(d, int) for d in self.dims)

    def array(self, dtype: DType) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """The numbers, when all are known."""
        return np.array(self.dims[0] if self.scalar else self.dims, dtype.numpy)


@graph_pass("resolve-shapes")
def resolve_shapes(graph: Graph) -> int:
    """Shape(x)[i] = its number; Reshape(x, f(Shape(x))) = Reshape(x, constant with 0 and -1)."""
    return _Resolver().run(graph)


@dataclass(slots=True)
class _Resolver:
    facts: dict[Value, Sizes] = field(default_factory=dict)
    retyped: set[Value] = field(default_factory=set)  # values whose type became more precise on the way

    def run(self, graph: Graph) -> int:
        changes = 0
        for node in graph.walk():
            if any(v in self.retyped for v in node.inputs) and not node.subgraphs and update_types(node):
                self.retyped.update(node.outputs)
            if node.domain:
                continue
            if node.op == "Reshape":
                changes += self._reshape(node)
                continue
            made = self._derive(node)
            if made is None:
                continue
            self.facts[node.output] = made
            changes += self._store(node, made)
        return changes

    def of(self, value: Value | None) -> Sizes | None:
        """What is known of an operand."""
        if value is None:
            return None
        constant = value.constant
        if constant is None:
            return self.facts.get(value)
        if constant.size > _LONGEST or len(constant.shape) > 1 or not constant.dtype.is_integer:
            return None
        return Sizes(tuple(int(v) for v in constant.array().reshape(-1)), constant.shape == ())

    def _derive(self, node: Node) -> Sizes | None:
        derive = _TABLE.get(node.op)
        if derive is None or len(node.outputs) != 1:
            return None
        if node.op == "Shape":
            return _shape(node)
        operands = [self.of(v) for v in node.inputs]
        if not operands or operands[0] is None:
            return None
        return derive(node, operands)

    def _store(self, node: Node, made: Sizes) -> int:
        """Put a constant in the place of a vector that is wholly known."""
        type, graph = node.output.type, node.graph
        if not made.known or graph is None or not isinstance(type, TensorType) or node.output.is_unused:
            return 0
        constant = Constant.of(made.array(type.dtype))
        new = Value(constant=constant, name=node.output.name)
        if not is_replaceable(node.output, new) or not graph.allows("store-shape", node):
            return 0
        users = node.output.users
        graph.replace_uses(node.output, new)
        graph.erase_unused(node)
        self.retyped.add(new)
        return len(users) and 1

    def _reshape(self, node: Node) -> int:
        """Sizes that are known, or copied from the same axis, leave at most one to be inferred."""
        graph, wanted = node.graph, self.of(node.input(1))
        given = node.inputs[0]
        if graph is None or wanted is None or node.constant(1) is not None or attr(node, "allowzero", 0):
            return 0
        before = given.type.shape if given is not None and isinstance(given.type, TensorType) else None
        sizes: list[int] = []
        for axis, dim in enumerate(wanted.dims):
            if isinstance(dim, int):
                sizes.append(dim)
            elif dim is not None and before is not None and axis < len(before) and before[axis] == dim:
                sizes.append(0)
            else:
                sizes.append(-1)
        if sizes.count(-1) > 1 or wanted.scalar or not graph.allows("store-reshape", node):
            return 0
        old = node.inputs[1]
        graph.set_input(node, 1, Value(constant=Constant.of(np.array(sizes, np.int64))))
        if old is not None and old.producer is not None:
            graph.erase_unused(old.producer)
        if update_types(node):
            self.retyped.update(node.outputs)
        return 1


def _shape(node: Node) -> Sizes | None:
    value = node.inputs[0]
    type = None if value is None else value.type
    if not isinstance(type, TensorType) or type.shape is None:
        return None
    return Sizes(type.shape[slice(node.attrs.get("start"), node.attrs.get("end"))])


def _gather(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data, index = operands[0], operands[1]
    if data is None or index is None or not index.known or data.scalar or attr(node, "axis", 0) not in (0, -1):
        return None
    picked = [int(i) for i in index.dims if isinstance(i, int)]
    if any(not -len(data.dims) <= i < len(data.dims) for i in picked):
        return None
    return Sizes(tuple(data.dims[i] for i in picked), index.scalar)


def _slice(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    if data is None or data.scalar:
        return None
    bounds = []
    for slot, name in ((1, "starts"), (2, "ends"), (4, "steps")):
        given = node.attrs.get(name)
        if given is None and node.input(slot) is not None:
            sizes = operands[slot]
            given = sizes.dims if sizes is not None and sizes.known else ()
        bounds.append((1,) if given is None and slot == 4 else tuple(given or ()))
    if any(len(b) != 1 for b in bounds):
        return None
    start, end, step = (int(b[0]) for b in bounds)
    return Sizes(data.dims[start:end:step]) if step > 0 else None


def _concat(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    if any(o is None or o.scalar for o in operands):
        return None
    dims = tuple(d for o in operands if o is not None for d in o.dims)
    return Sizes(dims) if len(dims) <= _LONGEST else None


def _to_scalar(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    return Sizes(data.dims, True) if data is not None and not data.scalar and len(data.dims) == 1 else None


def _to_vector(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    data = operands[0]
    return Sizes(data.dims) if data is not None and data.scalar else None


def _cast(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    return operands[0] if node.attrs.get("to") in (DType.INT64, DType.INT32) else None


def _arithmetic(compute: Callable[[int, int], int]) -> Callable[[Node, Sequence[Sizes | None]], Sizes | None]:
    def derive(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
        a, b = operands[0], operands[1]
        if a is None or b is None:
            return None
        length = max(len(a.dims), len(b.dims))
        if any(len(o.dims) not in (1, length) for o in (a, b)):
            return None
        pairs = zip(*(o.dims * (length if len(o.dims) == 1 else 1) for o in (a, b)))
        dims = tuple(compute(x, y) if isinstance(x, int) and isinstance(y, int) else None for x, y in pairs)
        fits = all(d is None or abs(d) < 2**31 for d in dims)
        return Sizes(dims, a.scalar and b.scalar) if fits else None

    return derive


def _divide(node: Node, operands: Sequence[Sizes | None]) -> Sizes | None:
    a, b = operands[0], operands[1]
    if a is None or b is None or any(not isinstance(d, int) or d <= 0 for d in b.dims):
        return None
    if any(isinstance(d, int) and d < 0 for d in a.dims):
        return None
    return _arithmetic(lambda x, y: x // y)(node, operands)


_TABLE: dict[str, Callable[[Node, Sequence[Sizes | None]], Sizes | None]] = {
    "Shape": lambda node, operands: None,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _to_scalar,
    "Unsqueeze": _to_vector,
    "Cast": _cast,
    "Identity": lambda node, operands: operands[0],
    "Add": _arithmetic(lambda x, y: x + y),
    "Sub": _arithmetic(lambda x, y: x - y),
    "Mul": _arithmetic(lambda x, y: x * y),
    "Div": _divide,
}
"""For each operator, what is known of its result from what is known of its operands."""
