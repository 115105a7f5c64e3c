"""What may run on integers: operators with the activation that clamps their codes, seen as units of placement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from ....compress.layers.linear import LINEAR, Linear, is_float32, linear_of
from ....ir import DType, Graph, Model, Node, Value
from ....ops import attr, version_for
from ..options import Quantize

BINARY = frozenset(("Add", "Mul"))
POOLS = frozenset(("AveragePool", "GlobalAveragePool"))
MOVES = frozenset(("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"))
"""Operators that choose among elements: codes pass through, at one scale for input and output."""
FUNCTIONS = frozenset(("Sigmoid", "LeakyRelu"))
CLAMPS = frozenset(("Relu", "Clip"))
CLAMPED = LINEAR | BINARY | {"Concat"}
"""Operators whose rounding to codes can clamp too."""
BLOCKED = 21
"""The operator set from which DequantizeLinear takes blocks."""
OPERATORS = LINEAR | BINARY | POOLS | MOVES | FUNCTIONS | {"Concat", "Resize"}


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One operator, with a Relu or Clip behind it that nobody else reads.

    inputs: the activations it reads. outputs: what it makes (after the clamp). limits: least and greatest result.
    linear: the weights, for Conv, Gemm and MatMul.
    """

    node: Node
    clamp: Node | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    limits: tuple[float, float] = (-np.inf, np.inf)
    linear: Linear | None = None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def name(self) -> str:
        """How reports call it."""
        return self.node.name or self.node.output.name or self.node.op

    @property
    def moves(self) -> bool:
        """Codes pass through unchanged."""
        return self.node.op in MOVES or (self.node.op == "Resize")

    @property
    def may_end_float(self) -> bool:
        """Its result can be float while its input is quantized, at no cost."""
        return self.linear is not None and self.node.op != "Conv" and self.clamp is None


@dataclass(slots=True)
class Units:
    """The units of a model in execution order, and why other operators of their kind are none."""

    found: list[Unit] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def linear(self) -> Iterator[tuple[Unit, Linear]]:
        """Those with weights."""
        for unit in self.found:
            if unit.linear is not None:
                yield unit, unit.linear


def find_units(model: Model, options: Quantize) -> Units:
    """Every operator of the root graph that integers could run, by what the options allow."""
    units, graph = Units(), model.graph
    wanted = OPERATORS if options.op_types_to_quantize is None else frozenset(options.op_types_to_quantize)
    for node in graph:
        name = node.name or node.output.name or node.op
        if node.op == "ConvTranspose":
            units.refused.append((name, "a transposed convolution"))
        if node.op not in OPERATORS:
            continue
        why = None
        if node.op not in wanted:
            why = "its operator is not among op_types_to_quantize"
        elif name in options.nodes_to_exclude or set(node.origins) & set(options.nodes_to_exclude):
            why = "excluded by name"
        made = why or _unit(node, graph)
        if isinstance(made, Unit):
            units.found.append(made)
        elif node.op in LINEAR:
            units.refused.append((name, made))
    return units


def _unit(node: Node, graph: Graph) -> Unit | str:
    linear = None
    if node.op in LINEAR:
        made = linear_of(node)
        if isinstance(made, str):
            return made
        linear = made
    inputs = _activations(node, linear is not None)
    if not inputs or not all(is_float32(v) for v in (*inputs, *node.outputs) if not v.is_unused):
        return "its operands are not float32 activations"
    if any(v.constant is not None for v in inputs):
        return "an operand is constant"
    if any(v.owner is not None and v.default is not None for v in inputs):
        return "an operand may be overridden"
    refusal = _REFUSALS.get(node.op)
    told = None if refusal is None else refusal(node)
    if told is not None:
        return told
    clamp, limits = _clamp(node, graph) if node.op in CLAMPED else (None, (-np.inf, np.inf))
    outputs = tuple(v for v in node.outputs if not v.is_unused or v.index == 0) if clamp is None else clamp.outputs
    return Unit(node, clamp, inputs, outputs, limits, linear)


def _activations(node: Node, is_linear: bool) -> tuple[Value, ...]:
    if node.op in BINARY or node.op == "Concat":
        return tuple(v for v in node.inputs if v is not None)
    return tuple(v for v in node.inputs[:1] if v is not None)


def _clamp(node: Node, graph: Graph) -> tuple[Node | None, tuple[float, float]]:
    free = (None, (-np.inf, np.inf))
    if not node.output.has_one_use:
        return free
    user = node.output.uses[0].node
    if user.op not in CLAMPS or user.graph is not graph or user.inputs[0] is not node.output:
        return free
    if user.op == "Relu":
        return user, (0.0, np.inf)
    low, high = -np.inf, np.inf
    if version_for(user) < 11:
        low, high = float(attr(user, "min", -np.inf)), float(attr(user, "max", np.inf))
    else:
        for slot in (1, 2):
            if user.input(slot) is None:
                continue
            constant = user.constant(slot)
            if constant is None or constant.size != 1:
                return free
            value = float(constant.array().reshape(()))
            low, high = (value, high) if slot == 1 else (low, value)
    return (user, (low, high)) if low <= 0 < high else free


def _refuse_pool(node: Node) -> str | None:
    if len(node.outputs) > 1 and not node.outputs[1].is_unused:
        return "its indices are used"
    return None


def _refuse_resize(node: Node) -> str | None:
    mode = str(attr(node, "mode", "nearest"))
    return None if mode == "nearest" else f"{mode} interpolation computes with its operands"


def _refuse_shape(node: Node) -> str | None:
    return None if all(v is None or v.constant is not None for v in node.inputs[1:]) else "its shape is not constant"


_REFUSALS = {
    "MaxPool": _refuse_pool, "Resize": _refuse_resize, "Reshape": _refuse_shape, "Slice": _refuse_shape,
    "Squeeze": _refuse_shape, "Unsqueeze": _refuse_shape, "Split": _refuse_shape,
}  # fmt: skip


def layer_units(units: list[Unit], mode: str) -> list[Unit]:
    """Those that a mode serves one by one: products of matrices when dynamic (integer convolutions are slow in
    onnxruntime), every layer when weights are stored."""
    return [u for u in units if u.linear is not None and (mode == "weights" or u.node.op in ("MatMul", "Gemm"))]


def find_tables(graph: Graph) -> list[Unit]:
    """Gather of rows of a constant float table of at least 64 KB."""
    found = []
    for node in graph:
        table = node.constant(0) if node.op == "Gather" else None
        if table is None or table.dtype is not DType.FLOAT or len(table.shape) != 2 or table.nbytes < 1 << 16:
            continue
        if int(attr(node, "axis", 0)) != 0 or getattr(node.output.type, "rank", None) is None or node.output.is_result:
            continue
        linear = Linear(node, table.array(), None, 1, 1)
        found.append(Unit(node, None, (), (node.output,), linear=linear))
    return found


def useful(units: frozenset[Unit]) -> frozenset[Unit]:
    """Without units that gain nothing: those that only pass codes on at the border of a region, and arithmetic on what
    a product gives as floats at no cost (around the sums and norms of transformers that costs accuracy, too)."""
    while True:
        made = {value: unit for unit in units for value in unit.outputs}
        read = {value for unit in units for value in unit.inputs}
        idle = {u for u in units if _is_idle(u, made, read)}
        if not idle:
            return units
        units = units - idle


def _is_idle(unit: Unit, made: Mapping[Value, Unit], read: Set[Value]) -> bool:
    if unit.linear is not None:
        return False
    sources = [v in made and not made[v].may_end_float for v in unit.inputs]
    if not (any(sources) if unit.node.op in BINARY else all(sources)):
        return True
    return unit.moves and not any(v in read for v in unit.outputs)
