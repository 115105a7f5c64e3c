"""Units of placement: operators that integers can run, each with the activation that clamps its codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np

from ....compress.layers.linear import LINEAR, PRODUCTS, TRANSPOSED, Linear, is_float32, linear_of
from ....errors import Declined
from ....ir import DType, Graph, Model, Node, Value
from ....ops import attr, version_for
from ..options import Quantize

BINARY = frozenset(("Add", "Mul"))
POOLS = frozenset(("AveragePool", "GlobalAveragePool"))
MOVES = frozenset(("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"))
"""Operators that select elements: codes pass through, at one scale for input and output."""
RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
"""Layers outside of units: quantized one by one, in any mode but static."""
FUNCTIONS = frozenset(("Sigmoid", "LeakyRelu"))
CLAMPS = frozenset(("Relu", "Clip"))
CLAMPED = LINEAR | BINARY | {"Concat", TRANSPOSED}
"""Operators whose rounding to codes can also clamp."""
TABLE = 1 << 16
"""Bytes of the smallest Gather table stored as codes: a smaller table would save less than 48 KB."""
PACKED = 21
"""The opset from which DequantizeLinear takes 4-bit integers, and blocks."""
BETWEEN = BINARY | POOLS | MOVES | FUNCTIONS | {"Concat", "Resize"}
"""Operators without weights, whose placement follows the adjacent layers."""
OPERATORS = LINEAR | BETWEEN


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One operator, with the Relu or Clip after it, if that is its only reader.

    inputs: the activations it reads. outputs: its results (after the clamp). limits: least and greatest result. linear:
    the weights, for Conv, Gemm and MatMul.
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
    def layer(self) -> Linear:
        """The weights of a unit with weights."""
        assert self.linear is not None
        return self.linear

    @property
    def name(self) -> str:
        """The name in reports."""
        return self.node.name or self.node.output.name or self.node.op

    @property
    def is_table(self) -> bool:
        """Whether the unit is a table stored as codes and read as floats, without integer arithmetic."""
        return self.node.op == "Gather" and self.linear is not None

    @property
    def passes_codes(self) -> bool:
        """Whether codes pass through unchanged, at one scale for inputs and outputs."""
        return self.node.op in MOVES or self.node.op == "Resize"

    @property
    def may_end_float(self) -> bool:
        """Whether the result can be float while the input is quantized, at no cost."""
        return self.linear is not None and self.node.op != "Conv" and self.clamp is None


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a model in execution order, and (name, reason) of layers that cannot be units."""

    members: tuple[Unit, ...]
    refused: tuple[tuple[str, str], ...]

    @property
    def layers(self) -> tuple[Unit, ...]:
        """The units with weights."""
        return tuple(unit for unit in self.members if unit.linear is not None)


def find_units(model: Model, options: Quantize, target: str = "portable") -> Units:
    """Every operator of the root graph that integers could run, by what the options allow.

    Transposed convolutions are quantized to fewer than 8 bits, and to 8 for graphopt's own kernels: onnxruntime has no
    integer kernel for them.
    """
    members: list[Unit] = []
    refused: list[tuple[str, str]] = []
    for node in model.graph:
        name = node.name or node.output.name or node.op
        is_transposed = node.op == TRANSPOSED and options.mode == "static"
        is_transposed &= options.is_narrow or target == "graphopt"
        if node.op == TRANSPOSED and not is_transposed:
            refused.append((name, "a transposed convolution"))
        if node.op not in OPERATORS and not is_transposed:
            continue
        try:
            check_wanted(node, name, options)
            if is_transposed and not options.is_narrow:
                _check_transposed(node)
            unit = _unit(node, model.graph)
            if options.mode == "weights" and options.per_channel and unit.linear is not None:
                _check_shrinks(unit.linear)
            members.append(unit)
        except Declined as declined:
            if node.op in LINEAR or is_transposed:
                refused.append((name, declined.reason))
    return Units(tuple(members), tuple(refused))


def check_wanted(node: Node, name: str, options: Quantize) -> None:
    """Declined where the options exclude a node by name, or by operator unless chosen by name."""
    names = {name, *node.origins}
    types = options.op_types_to_quantize
    if types is not None and node.op not in types and not names & options.layers.keys():
        raise Declined("its operator is not among op_types_to_quantize", node)
    if names & set(options.nodes_to_exclude):
        raise Declined("excluded by name", node)


def _check_shrinks(layer: Linear) -> None:
    """Declined where a channel's 8-bit codes, scale and zero point take at least as many bytes as its weights."""
    width = 4 if layer.constant.half is None else 2
    if layer.depth * width <= layer.depth + width + 1:
        raise Declined("its codes and scales would take more bytes than its weights", layer.node)


def _unit(node: Node, graph: Graph) -> Unit:
    """The unit of a node. Declined where integers cannot run it."""
    linear = linear_of(node) if node.op in LINEAR or node.op == TRANSPOSED else None
    inputs = _activations(node, linear is not None)
    if not inputs or not all(is_float32(v) for v in (*inputs, *node.outputs) if not v.is_unused):
        raise Declined("its operands are not float32 activations", node)
    if any(v.constant is not None for v in inputs):
        raise Declined("an operand is constant", node)
    if any(v.owner is not None and v.default is not None for v in inputs):
        raise Declined("an operand may be overridden", node)
    check = _CHECKS.get(node.op)
    if check is not None:
        check(node)
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


def _check_pool(node: Node) -> None:
    if len(node.outputs) > 1 and not node.outputs[1].is_unused:
        raise Declined("its indices are used", node)


def _check_resize(node: Node) -> None:
    mode = str(attr(node, "mode", "nearest"))
    if mode != "nearest":
        raise Declined(f"{mode} interpolation computes with its operands", node)


def _check_transposed(node: Node) -> None:
    weight, dilations = node.constant(1), attr(node, "dilations", ())
    plain = str(attr(node, "auto_pad", "NOTSET")) == "NOTSET" and not node.attrs.get("output_shape")
    if weight is None or len(weight.shape) != 4 or not plain or attr(node, "group", 1) != 1 or {*dilations} - {1}:
        raise Declined("a transposed convolution of other than an image, in groups, dilated or of a given shape", node)


def _check_shape(node: Node) -> None:
    if not all(v is None or v.constant is not None for v in node.inputs[1:]):
        raise Declined("its shape is not constant", node)


_CHECKS = {
    "MaxPool": _check_pool, "Resize": _check_resize, "Reshape": _check_shape, "Slice": _check_shape,
    "Squeeze": _check_shape, "Unsqueeze": _check_shape, "Split": _check_shape,
}  # fmt: skip


def layer_units(units: Iterable[Unit], mode: str) -> list[Unit]:
    """The layers that a mode without calibration quantizes: products of matrices when dynamic (integer convolutions are
    slow in onnxruntime), every layer when weights are stored."""
    return [u for u in units if u.linear is not None and (mode == "weights" or u.node.op in PRODUCTS)]


def find_tables(graph: Graph, options: Quantize) -> list[Unit]:
    """Units of Gather that read rows of a constant float table of at least `TABLE` bytes, by what the options allow."""
    tables = []
    for node in graph:
        table = node.constant(0) if node.op == "Gather" else None
        if table is None or table.dtype is not DType.FLOAT or len(table.shape) != 2 or table.nbytes < TABLE:
            continue
        if int(attr(node, "axis", 0)) != 0 or getattr(node.output.type, "rank", None) is None or node.output.is_result:
            continue
        unit = Unit(node, None, (), (node.output,), linear=Linear(node, table, None, 1, 1))
        try:
            check_wanted(node, unit.name, options)
        except Declined:
            continue
        tables.append(unit)
    return tables


def useful(units: frozenset[Unit]) -> frozenset[Unit]:
    """The units that gain: without units that only pass codes at the border of a region, and without arithmetic on
    products that can end float at no cost (in transformers, integers there also lose accuracy)."""
    while True:
        producer = {value: unit for unit in units for value in unit.outputs}
        read = {value for unit in units for value in unit.inputs}
        idle = {u for u in units if _is_idle(u, producer, read)}
        if not idle:
            return units
        units = units - idle


def _is_idle(unit: Unit, producer: Mapping[Value, Unit], read: Set[Value]) -> bool:
    if unit.linear is not None:
        return False
    sources = [v in producer and not producer[v].may_end_float for v in unit.inputs]
    if not (any(sources) if unit.node.op in BINARY else all(sources)):
        return True
    return unit.passes_codes and not any(v in read for v in unit.outputs)
