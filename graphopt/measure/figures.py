"""What a model costs on paper: nodes, bytes, parameters, multiply-accumulates, peak activation memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..ir import Graph, Model, Node, TensorType, Value, captures

_PARAMETER_SIZE = 2  # a scalar is a setting, not a parameter


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one model. Symbolic and unknown sizes count as 1; `symbolic` says that there are some.

    nodes: recursive through nested graphs, constants not counted. operators: nodes by operator. parameters: elements
    of constants with at least two elements. constant_bytes: bytes of all constants. macs: multiply-accumulates of Conv,
    ConvTranspose, MatMul, Gemm and their integer forms. activation_bytes: the most bytes alive at once in file order.
    """

    nodes: int
    operators: dict[str, int]
    parameters: int
    constant_bytes: int
    macs: int
    activation_bytes: int
    symbolic: bool
    file_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


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
        nodes=len(nodes),
        operators=dict(operators.most_common()),
        parameters=sum(v.constant.size for v in constants if v.constant and v.constant.size >= _PARAMETER_SIZE),
        constant_bytes=sum(v.constant.nbytes for v in constants if v.constant),
        macs=macs,
        activation_bytes=peak_activation_bytes(model.graph),
        symbolic=symbolic,
        file_bytes=file_bytes,
    )


def _constants(model: Model) -> list[Value]:
    found: dict[Value, None] = {}
    for body in (model, *(f.body for f in model.functions.values())):
        for graph in body.graph.graphs():
            for node in (*graph.snapshot(), graph.return_node):
                found.update((v, None) for v in node.inputs if v is not None and v.constant is not None)
    return list(found)


Sizes = Callable[[Value | None], Sequence[int]]


def node_macs(node: Node, shapes: Mapping[Value, Sequence[int]] | None = None) -> int:
    """Multiply-accumulates of one node; 0 for operators that are not linear maps.

    shapes: of values, where they are known better than declared. Unknown sizes count as 1.
    """
    count, known = _MACS.get(node.op), shapes or {}
    return 0 if count is None else count(node, lambda v: known[v] if v is not None and v in known else _declared(v))


def _declared(value: Value | None) -> list[int]:
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return []
    return [d if isinstance(d, int) else 1 for d in value.type.shape]


def _conv(node: Node, sizes: Sizes, weight_slot: int = 1) -> int:
    weight, out = sizes(node.input(weight_slot)), sizes(node.output)
    return math.prod(out) * math.prod(weight[1:]) if weight and out else 0


def _conv_transpose(node: Node, sizes: Sizes) -> int:
    weight, data = sizes(node.input(1)), sizes(node.input(0))
    return math.prod(data) * math.prod(weight[1:]) if weight and data else 0


def _matmul(node: Node, sizes: Sizes) -> int:
    left, out = sizes(node.input(0)), sizes(node.output)
    return math.prod(out) * left[-1] if left and out else 0


def _gemm(node: Node, sizes: Sizes) -> int:
    left, out = sizes(node.input(0)), sizes(node.output)
    if len(left) != 2 or not out:
        return 0
    return math.prod(out) * (left[0] if node.attrs.get("transA") else left[1])


_MACS: dict[str, Callable[[Node, Sizes], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": lambda node, sizes: _conv(node, sizes, 3),
    "com.microsoft::FusedConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "com.microsoft::FusedMatMul": _matmul,
    "com.microsoft::MatMulIntegerToFloat": _matmul,
    "com.microsoft::DynamicQuantizeMatMul": _matmul,
    "Gemm": _gemm,
    "com.microsoft::FusedGemm": _gemm,
    "com.microsoft::QGemm": _gemm,
}
LINEAR_MAPS = frozenset(_MACS)
"""Operators that multiply and accumulate."""


def value_bytes(value: Value) -> int:
    """Bytes of a value in memory, unknown sizes counted as 1."""
    if not isinstance(value.type, TensorType):
        return 0
    return (math.prod(_declared(value)) * value.type.dtype.bits + 7) // 8


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes of computed values and inputs alive at once, in execution order; constants not counted."""
    order = [*graph.snapshot(), graph.return_node]
    last: dict[Value, int] = {}
    for i, node in enumerate(order):
        for value in (*node.inputs, *captures(node)):
            if value is not None and value.constant is None:
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
