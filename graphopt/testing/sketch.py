"""A random graph under construction: typed values to build on, with the bounds that keep it valid and comparable."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from ..errors import Declined
from ..ir import Constant, Dim, DType, Graph, Model, Node, TensorType, Value
from ..rewrite import Builder, Context

T = TypeVar("T")

FLOATS = (DType.FLOAT, DType.DOUBLE, DType.FLOAT16)
INTEGERS = (DType.INT64, DType.INT32)
WIDE = (DType.FLOAT, DType.DOUBLE)
LIMITS = {DType.FLOAT16: 60.0}
"""Magnitudes (1e4 by default) beyond which a value serves as no operand, so that results neither overflow nor drown in
noise: 60 squared, summed over a few terms, stays within half precision."""


@dataclass(slots=True)
class ValueFacts:
    """Facts of a value beside its type.

    bound: a magnitude that the value hardly exceeds. steady: no rewrite changes the value, not even by rounding. Only
    steady values enter discontinuous operators (Floor, ArgMax, a Cast to integers, QuantizeLinear).
    """

    bound: float
    steady: bool


@dataclass(slots=True)
class Sketch:
    """Grows one graph. Every `node` is appended at once; `pool` holds the values that later blocks may read.

    weights: constants that a later `weight` may share. results: values that become outputs of the model even if other
    nodes read them. depth: nesting level of this graph.
    """

    rng: random.Random
    graph: Graph
    arrays: np.random.Generator
    pool: list[Value] = field(default_factory=list)
    facts: dict[Value, ValueFacts] = field(default_factory=dict)
    weights: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    depth: int = 0
    context: Context = field(default_factory=Context)

    @property
    def opset(self) -> int:
        """The operator-set version that the model is written in."""
        return self.graph.opsets[""]

    # -- chance

    def chance(self, share: float) -> bool:
        """True with this probability; hypothesis shrinks to False."""
        return self.rng.randint(0, 99) >= 100 - round(share * 100)

    def choose(self, items: Sequence[T]) -> T:
        """One of `items`; hypothesis shrinks to the first. Declined if there are none."""
        if not items:
            raise Declined("nothing to choose from")
        return items[self.rng.randint(0, len(items) - 1)]

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self.rng.randint(low, high)

    # -- values

    def add_input(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Value:
        """A new input of the graph."""
        value = Value(TensorType(dtype, tuple(shape)), name)
        self.graph.add_input(value)
        self.facts[value] = ValueFacts(6.0 if dtype.is_float else 8.0, True)
        self.pool.append(value)
        return value

    def constant(self, array: Any, dtype: DType | None = None) -> Value:
        """A new constant; a Python number takes the element type `dtype`."""
        numbers = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype.numpy)
        value = Value(constant=Constant.of(numbers))
        bound = float(np.abs(numbers.astype(np.float64)).max(initial=0)) if numbers.dtype.kind in "fiu" else 1.0
        self.facts[value] = ValueFacts(bound, True)
        return value

    def ints(self, *numbers: int) -> Value:
        """A vector of int64."""
        return self.constant(np.array(numbers, np.int64))

    def weight(self, shape: Sequence[int], dtype: DType = DType.FLOAT, low: float = -1.0, high: float = 1.0) -> Value:
        """A constant of numbers between `low` and `high`; sometimes one shared with other nodes."""
        shared = [
            v for v in self.weights
            if v.constant is not None and v.constant.shape == tuple(shape) and v.constant.dtype == dtype
            and low <= float(v.constant.array().min(initial=high)) and self.facts[v].bound <= max(abs(low), abs(high))
        ]  # fmt: skip
        if shared and self.chance(0.3):
            return self.choose(shared)
        weight = self.constant(self.arrays.uniform(low, high, tuple(shape)), dtype)
        self.weights.append(weight)
        return weight

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """The sizes of a value; Declined where the rank is not known."""
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise Declined("the rank is not known")
        return value.type.shape

    def dtype(self, value: Value) -> DType:
        """The element type of a value."""
        if not isinstance(value.type, TensorType):
            raise Declined("not a tensor")
        return value.type.dtype

    def rank(self, value: Value) -> int:
        """The number of axes."""
        return len(self.shape(value))

    def size(self, value: Value, axis: int) -> int:
        """A known size; Declined for a symbolic size or a missing axis."""
        shape = self.shape(value)
        dim = shape[axis] if -len(shape) <= axis < len(shape) else None
        if not isinstance(dim, int):
            raise Declined("the size is not a number")
        return dim

    def pick(
        self, *dtypes: DType, ranks: Sequence[int] = (), steady: bool = False, bound: float = 0.0,
        where: Callable[[Value], bool] | None = None,
    ) -> Value:  # fmt: skip
        """A value of the pool, more often a recent one, of these element types and ranks, at most of this magnitude."""
        fits = [
            v
            for v in self.pool
            if self._fits(v, dtypes or FLOATS, ranks, steady, bound) and (where is None or where(v))
        ]
        return self.choose(fits[-3:][::-1] if self.chance(0.6) else fits)

    def _fits(self, v: Value, dtypes: Sequence[DType], ranks: Sequence[int], steady: bool, bound: float) -> bool:
        type, fact = v.type, self.facts[v]
        if (
            not isinstance(type, TensorType)
            or type.dtype not in dtypes
            or type.shape is None
            or None in type.shape
            or 0 in type.shape
        ):
            return False
        if (ranks and len(type.shape) not in ranks) or (steady and not fact.steady):
            return False
        return not type.dtype.is_float or fact.bound <= (bound or LIMITS.get(type.dtype, 1e4))

    # -- nodes

    def node(self, op: str, *inputs: Value | None, bound: float | None = None, **attrs: Any) -> Value:
        """Append a node and return its output. Declined if the opset lacks it or inference rejects it."""
        return self.nodes(op, *inputs, outputs=1, bound=bound, **attrs)[0]

    def nodes(
        self, op: str, *inputs: Value | None, outputs: int, bound: float | None = None, **attrs: Any
    ) -> tuple[Value, ...]:
        """Append a node with several outputs."""
        builder = Builder(self.graph, self.context)
        builder.node(op, *inputs, outputs=outputs, **attrs)
        node = builder.nodes[0]
        for domain, version in builder.imports.items():
            self.graph.opsets.setdefault(domain, version)
        if node.op in _PRODUCTS and node.inputs[0] and node.inputs[1]:
            node.output.type = TensorType(DType.FLOAT, (*self.shape(node.inputs[0])[:-1], self.size(node.inputs[1], 1)))
        if node.op in _KEEPS_TYPE and node.inputs[0] is not None:
            node.output.type = node.inputs[0].type
        if node.op == "com.microsoft::QuantizeLinear" and node.inputs[0] is not None and node.inputs[2] is not None:
            node.output.type = TensorType(self.dtype(node.inputs[2]), self.shape(node.inputs[0]))
        if any(not isinstance(v.type, TensorType) or not v.type.dtype for v in node.outputs):
            raise Declined(f"{op}: inference finds no type")
        if op in BROADCASTS and not _broadcast([self.shape(v) for v in node.inputs if v is not None]):
            raise Declined(f"{op}: the sizes may not broadcast")
        return self.append(node, bound)

    def append(self, node: Node, bound: float | None = None) -> tuple[Value, ...]:
        """Append a finished node; the facts of its outputs follow from those of its operands."""
        operands = [self.facts[v] for v in node.inputs if v is not None]
        steady = node.op in STEADY and all(f.steady for f in operands)
        if bound is None:
            bound = default_bound(node, [f.bound for f in operands])
        self.graph.append(node)
        for value in node.outputs:
            exact = steady or (isinstance(value.type, TensorType) and value.type.dtype is DType.BOOL)
            value.name = f"{node.op.lower()}{len(self.facts)}"
            self.facts[value] = ValueFacts(bound, exact)
            self.pool.append(value)
        return node.outputs

    def with_axes(self, op: str, x: Value, axes: Sequence[int], since: int, **attrs: Any) -> Value:
        """A node with axes as an attribute before opset `since`, as an operand from then on."""
        if self.opset < since:
            return self.node(op, x, axes=tuple(axes), **attrs)
        return self.node(op, x, self.ints(*axes), **attrs)

    def nested(self, name: str) -> Sketch:
        """A sketch of a graph inside this one, which sees this one's values."""
        graph = Graph(name)
        graph.model = self.graph.model
        return replace(self, graph=graph, pool=list(self.pool), depth=self.depth + 1)

    def attempt(self, block: Callable[[Sketch], Any]) -> bool:
        """Run a block. False if it declined; the nodes it had appended are erased."""
        before, pooled = self.graph.snapshot(), len(self.pool)
        try:
            block(self)
        except Declined:
            kept = set(before)
            for node in reversed(self.graph.snapshot()):
                if node not in kept:
                    self.graph.erase(node)
            del self.pool[pooled:]
            return False
        return True


STEADY = frozenset((
    "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Split", "Slice", "Gather", "Pad",
    "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Relu", "Abs", "Neg", "Max", "Min", "Clip", "MaxPool", "Dropout",
    "Where", "Shape", "Size", "Floor", "Ceil", "Round", "Sign", "ArgMax", "ReduceMax", "ReduceMin", "QuantizeLinear",
    "GlobalMaxPool", "Not", "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
    "ConstantOfShape", "Range", "Resize", "Trilu", "GatherElements", "ScatterND", "CumSum",
))  # fmt: skip
"""Operators that keep values steady: they involve no rounding that a rewrite could change."""

BROADCASTS = frozenset((
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Mean", "Where", "PRelu", "Less", "Greater",
    "Equal", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Mod",
))  # fmt: skip

_PRODUCTS = frozenset(f"com.microsoft::{op}" for op in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul"))
_KEEPS_TYPE = frozenset(f"com.microsoft::{op}" for op in ("Gelu", "FastGelu", "QuickGelu"))
"""Operators of onnxruntime that keep their operand's type, unknown to ONNX's inference."""


def _broadcast(shapes: Sequence[Sequence[Dim]]) -> bool:
    """Whether shapes broadcast whatever the symbolic sizes; inference would equate a symbol with a number."""
    for axis in range(1, max(map(len, shapes)) + 1):
        if len({shape[-axis] for shape in shapes if axis <= len(shape)} - {1}) > 1:
            return False
    return True


_UNIT = frozenset(("Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Softsign", "Erf", "Sin", "Cos", "Sign"))
# Addends by which results may exceed twice the operand.
_GROWS = {"Softplus": 1.0, "Celu": 1.0, "Selu": 2.0, "LogSoftmax": 12.0, "Floor": 1.0, "Ceil": 1.0, "Round": 1.0}


def default_bound(node: Node, bounds: Sequence[float]) -> float:
    """A magnitude that the results of a node hardly exceed."""
    largest = max(bounds, default=1.0)
    if node.op in _UNIT:
        return 1.0
    if node.op in ("Add", "Sub", "Sum"):
        return float(sum(bounds))
    if node.op == "Mul":
        return float(np.prod(bounds))
    if node.op in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
        shape = node.inputs[1].type.shape if node.inputs[1] and isinstance(node.inputs[1].type, TensorType) else None
        terms = [d if isinstance(d, int) else 4 for d in shape or (4,)]
        return bounds[0] * bounds[1] * 0.7 * float(np.sqrt(np.prod(terms)))
    return largest * (2.0 if node.op in _GROWS else 1.0) + _GROWS.get(node.op, 0.0)


def new_model(opset: int) -> Model:
    """An empty model, in the first IR version that allows the opset."""
    ir_version = 8 if opset < 19 else 10 if opset < 23 else 11
    return Model(Graph("random"), {"": opset}, ir_version=ir_version)
