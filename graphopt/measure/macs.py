"""Multiply-accumulates of linear maps, at declared sizes or at the sizes of a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..ir import Model, Node, TensorType, Value
from ..ops import einsum_terms

Sizes = Callable[[Value | None], Sequence[int]]
"""A function from a value to its shape in numbers; empty where the rank is unknown."""


def node_macs(node: Node, shapes: Mapping[Value, Sequence[int]] | None = None) -> int:
    """Multiply-accumulates of one node; 0 for operators that are not linear maps.

    shapes: of values, where known better than declared. Unknown sizes count as 1.
    """
    count, known = _MACS.get(node.op), shapes or {}
    if count is None:
        return 0
    return sum(count(node, lambda v: known[v] if v is not None and v in known else declared_sizes(v)))


def macs_values(model: Model) -> list[Value]:
    """The values of the root graph whose shapes determine its multiply-accumulates."""
    nodes = [node for node in model.graph if node.op in LINEAR_MAPS]
    used = ((*node.inputs, *(v for v in node.outputs if v.index == 0 or not v.is_unused)) for node in nodes)
    return [value for values in used for value in values if value is not None]


def macs_at(model: Model, shapes: Mapping[Value, Sequence[int]]) -> dict[Node, int]:
    """Multiply-accumulates of each linear map, nested graphs included, at these shapes of `macs_values`.

    Values without a shape here, and values of nested graphs, have their declared sizes, open ones as 1.
    """
    return {node: node_macs(node, shapes) for node in model.graph.walk() if node.op in LINEAR_MAPS}


def declared_sizes(value: Value | None) -> list[int]:
    """The declared shape with 1 for open sizes; empty where the rank is unknown."""
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return []
    return [d if isinstance(d, int) else 1 for d in value.type.shape]


Terms = Sequence[Any]
"""Multiply-accumulates of one node as a sum, each term a product of sizes; none where a rank is unknown."""


def _conv(node: Node, sizes: Sizes, weight_slot: int = 1) -> Terms:
    weight, out = sizes(node.input(weight_slot)), sizes(node.output)
    return [math.prod(out) * math.prod(weight[1:])] if weight and out else []


def _conv_transpose(node: Node, sizes: Sizes) -> Terms:
    weight, data = sizes(node.input(1)), sizes(node.input(0))
    return [math.prod(data) * math.prod(weight[1:])] if weight and data else []


def _matmul(node: Node, sizes: Sizes) -> Terms:
    left, out = sizes(node.input(0)), sizes(node.output)
    return [math.prod(out) * left[-1]] if left and out else []


def _gemm(node: Node, sizes: Sizes) -> Terms:
    left, out = sizes(node.input(0)), sizes(node.output)
    if len(left) != 2 or not out:
        return []
    return [math.prod(out) * (left[0] if node.attrs.get("transA") else left[1])]


def _recurrent(node: Node, sizes: Sizes) -> Terms:
    """time · batch · directions · gates · hidden · (inputs + hidden): every step of every sequence reads all of W
    [directions, gates · hidden, inputs] and R [directions, gates · hidden, hidden] (ONNX: LSTM, GRU, RNN)."""
    data, weights = sizes(node.input(0)), [sizes(node.input(slot)) for slot in (1, 2)]
    return [math.prod(data[:2]) * math.prod(weight) for weight in weights] if data and all(weights) else []


def _attention(node: Node, sizes: Sizes) -> Terms:
    """queries · keys for the scores and results · keys for their sums of values, whatever a mask leaves out (Attention
    of ONNX; MultiHeadAttention and GroupQueryAttention of onnxruntime). None where keys are added to a cache that is
    not handed on.

    Packed with queries, [batch, time, heads, 3, size] or [batch, time, (heads + 2 · groups) · size], keys are as many
    as queries, and the scores cost as much as the sums; packed with values they are [batch, time, heads, 2, size].
    """
    queries, keys, out = sizes(node.input(0)), sizes(node.input(1)), sizes(node.output)
    cache = sizes(node.outputs[1]) if len(node.outputs) > 1 and not node.outputs[1].is_unused else []
    has_past = node.input({"Attention": 4, "com.microsoft::MultiHeadAttention": 6}.get(node.op, 3)) is not None
    is_packed = node.input(1) is None
    if not queries or not out or (has_past and not cache) or not (is_packed or len(keys) in (3, 4, 5)):
        return []
    given = queries[1] if is_packed else keys[1 if len(keys) == 5 else -2]
    count = cache[-2] if cache else given
    return [math.prod(out if is_packed else queries) * count, math.prod(out) * count]


def _einsum(node: Node, sizes: Sizes) -> Terms:
    """The product of the sizes of all letters, once for each operand but the first (ONNX: Einsum): none for one
    operand, which is moved or summed. The axes of "..." are those of the operand with most of them."""
    given = [sizes(value) for value in node.inputs]
    terms, _ = einsum_terms(str(node.attrs.get("equation", "")))
    if len(terms) != len(given) or not all(given):
        return []
    of: dict[str, Any] = {}
    broadcast: list[Any] = []
    for term, shape in zip(terms, given):
        before, dots, after = term.partition("...")
        if len(before) + len(after) > len(shape) or (not dots and len(before) != len(shape)):
            return []
        end = len(shape) - len(after)
        of.update(
            (letter, size)
            for letter, size in zip(before + after, [*shape[: len(before)], *shape[end:]])
            if of.get(letter, 1) == 1
        )
        inner = [*shape[len(before) : end]] if dots else []
        broadcast = inner if len(inner) > len(broadcast) else broadcast
    return [math.prod([*of.values(), *broadcast])] * (len(terms) - 1)


def _projected_attention(node: Node, sizes: Sizes) -> Terms:
    """onnxruntime's Attention, which also makes queries, keys and values of its input [batch, time, width]."""
    data, weight, out = sizes(node.input(0)), sizes(node.input(1)), sizes(node.output)
    if len(data) != 3 or not weight or not out or node.input(4) is not None:
        return []
    return [math.prod(data[:2]) * math.prod(weight), math.prod(out) * data[1], math.prod(out) * data[1]]


_MACS: dict[str, Callable[[Node, Sizes], Terms]] = {
    "Conv": _conv, "ConvInteger": _conv, "QLinearConv": lambda node, sizes: _conv(node, sizes, 3),
    "com.microsoft::FusedConv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul, "com.microsoft::FusedMatMul": _matmul, "com.microsoft::MatMulIntegerToFloat": _matmul,
    "com.microsoft::DynamicQuantizeMatMul": _matmul, "com.microsoft::MatMulNBits": _matmul, "Gemm": _gemm,
    "com.microsoft::FusedGemm": _gemm, "com.microsoft::QGemm": _gemm, "LSTM": _recurrent, "GRU": _recurrent,
    "RNN": _recurrent, "com.microsoft::DynamicQuantizeLSTM": _recurrent, "Attention": _attention,
    "com.microsoft::MultiHeadAttention": _attention, "com.microsoft::GroupQueryAttention": _attention,
    "com.microsoft::Attention": _projected_attention, "Einsum": _einsum,
}  # fmt: skip
LINEAR_MAPS = frozenset(_MACS)
"""Operators that multiply and accumulate."""


class _Monomial:
    """An integer times a product of open sizes, with multiplication."""

    def __init__(self, factor: int, sizes: tuple[str, ...] = ()) -> None:
        self.factor, self.sizes = factor, sizes

    def __mul__(self, other: Any) -> _Monomial:
        more = other if isinstance(other, _Monomial) else _Monomial(other)
        return _Monomial(self.factor * more.factor, tuple(sorted((*self.sizes, *more.sizes))))

    __rmul__ = __mul__


def macs_by_size(model: Model) -> dict[str, int]:
    """Multiply-accumulates as a sum: the factor of each product of open sizes, "" for the constant term.

    A model that maps [N, 8] by 8 x 4 weights has {"N": 32}. Sizes without a name are "?".
    """

    def sizes(value: Value | None) -> Any:
        if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
            return []
        return [_Monomial(d) if isinstance(d, int) else _Monomial(1, (d or "?",)) for d in value.type.shape]

    total: dict[str, int] = {}
    for body in (model, *(f.body for f in model.functions.values())):
        for node in body.graph.walk():
            for term in _MACS[node.op](node, sizes) if node.op in _MACS else ():
                if term.factor:
                    key = "·".join(term.sizes)
                    total[key] = total.get(key, 0) + term.factor
    return total
