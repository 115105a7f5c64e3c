"""Static figures of a model: nodes, bytes, parameters, multiply-accumulates, peak activation memory."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir import Graph, Model, TensorType, Value, captures
from .macs import declared_sizes, macs_by_size, node_macs
from .units import show_count

_PARAMETER_SIZE = 2
"""The least elements of a constant that counts as parameters: a scalar is a setting."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Static figures of one model. Symbolic and unknown sizes count as 1; `symbolic`: whether there are any.

    nodes: recursive through nested graphs, constants not counted. operators: nodes by operator. parameters: elements
    of constants with at least two elements. constant_bytes: bytes of all constants. macs: multiply-accumulates of Conv,
    ConvTranspose, MatMul, Gemm, Einsum, LSTM, GRU, RNN, attention and their integer forms; macs_by_size: the same as a
    sum over open sizes, as `measure.macs_by_size` gives it. activation_bytes: the most bytes alive at once in file
    order.
    """

    nodes: int
    operators: dict[str, int]
    parameters: int
    constant_bytes: int
    macs: int
    activation_bytes: int
    symbolic: bool
    file_bytes: int | None = None
    macs_by_size: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


_SUM = 32
"""Characters of a sum of multiply-accumulates that fit a cell at 390 pixels; a longer sum is shown at sizes of 1."""
AT_ONE = " (open sizes as 1)"
"""The suffix of a figure's label that counts open sizes as 1."""


@dataclass(frozen=True, slots=True)
class MacsText:
    """Multiply-accumulates of models as text, with a `label`. counts: of the first and the last model, as multiples of
    the same open sizes; None where the two cannot be compared."""

    label: str
    texts: tuple[str, ...]
    counts: tuple[int, int] | None


def macs_text(*models: Figures) -> MacsText:
    """Multiply-accumulates as multiples of open sizes (9.60 M·N), or at sizes of 1 where such a sum is too long."""
    sums, keys = [_sum(model.macs_by_size) for model in models], [model.macs_by_size.keys() for model in models]
    label, first, last = "multiply-accumulates", models[0].macs_by_size, models[-1].macs_by_size
    if any(len(text) > _SUM for text in sums):
        label, sums = label + AT_ONE, [show_count(model.macs) for model in models]
    if first == last:
        return MacsText(label, tuple(sums), (models[0].macs, models[0].macs))
    if len(first) == 1 and keys[0] == keys[-1]:
        (key,) = first
        return MacsText(label, tuple(sums), (first[key], last[key]))
    return MacsText(label, tuple(sums), None)


def _sum(counts: dict[str, int]) -> str:
    parts = (show_count(count) + (f"·{sizes}" if sizes else "") for sizes, count in sorted(counts.items()))
    return " + ".join(parts) or "0"


def figures(model: Model, file_bytes: int | None = None) -> Figures:
    """The figures of a model; linear in its nodes, reads no weights."""
    operators: Counter[str] = Counter()
    macs, symbolic = 0, False
    bodies = [model, *(f.body for f in model.functions.values())]
    nodes = [node for body in bodies for node in body.graph.walk()]
    for node in nodes:
        operators[node.op] += 1
        macs += node_macs(node)
        symbolic = symbolic or any(isinstance(v.type, TensorType) and not v.type.is_static for v in node.outputs)
    constants = _constants(model)
    return Figures(
        nodes=len(nodes), operators=dict(operators.most_common()),
        parameters=sum(v.constant.size for v in constants if v.constant and v.constant.size >= _PARAMETER_SIZE),
        constant_bytes=sum(v.constant.nbytes for v in constants if v.constant), macs=macs,
        activation_bytes=peak_activation_bytes(model.graph), symbolic=symbolic, file_bytes=file_bytes,
        macs_by_size=macs_by_size(model) if symbolic else {"": macs} if macs else {},
    )  # fmt: skip


def _constants(model: Model) -> list[Value]:
    constants: dict[Value, None] = {}
    for body in (model, *(f.body for f in model.functions.values())):
        for graph in body.graph.graphs():
            for node in (*graph.snapshot(), graph.return_node):
                constants.update((v, None) for v in node.inputs if v is not None and v.constant is not None)
    return list(constants)


def value_bytes(value: Value) -> int:
    """Bytes of a value in memory, unknown sizes counted as 1."""
    if not isinstance(value.type, TensorType):
        return 0
    return (math.prod(declared_sizes(value)) * value.type.dtype.bits + 7) // 8


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes of computed values and inputs alive at once, in execution order; constants, and what is computed
    of constants alone, such as dequantized weights, not counted: a runtime computes them as it loads the model."""
    weights: set[Value] = set()
    for node in graph:
        if node.inputs and not node.subgraphs and all(v is None or v.constant or v in weights for v in node.inputs):
            weights.update(node.outputs)
    order = [node for node in graph.snapshot() if not weights.intersection(node.outputs)]
    order.append(graph.return_node)
    own = {*graph.inputs, *(value for node in order for value in node.outputs)}
    last: dict[Value, int] = {}
    for i, node in enumerate(order):
        for value in (*node.inputs, *captures(node)):
            if value in own:
                last[value] = i
    freed = [0] * len(order)
    for value, i in last.items():
        freed[i] += value_bytes(value)
    alive = sum(value_bytes(v) for v in graph.inputs)
    peak = alive
    for i, node in enumerate(order):
        inner = max((peak_activation_bytes(nested) for nested in node.subgraphs), default=0)
        alive += sum(value_bytes(v) for v in node.outputs)
        peak = max(peak, alive + inner)
        alive -= freed[i] + sum(value_bytes(v) for v in node.outputs if v not in last)
    return peak
