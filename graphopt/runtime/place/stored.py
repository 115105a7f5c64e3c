"""Weights that a file stores as codes, in onnxruntime: computed once as it loads, or in each run.

onnxruntime leaves DequantizeLinear of constants to each run, and a convolution then has no weights that it could pack.
MatMul and Gemm multiply by the codes themselves, if they alone read them: large weights faster than floats, small ones
slower. Told to know no quantization, it computes all of them as it loads.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import Graph, Node, Value
from ...machine.sessions import LARGE
from ..lower.operands import is_constant, is_dequantize, is_quantize

ONCE: Mapping[str, str] = {"session.disable_quant_qdq": "1"}
"""The entries of a session that computes weights as it loads."""

_PRODUCTS = ("MatMul", "Gemm")
_FLOAT = 4  # bytes of a float32


def is_stored(value: Value | None) -> bool:
    """Whether a value is computed of constant codes."""
    node = None if value is None or value.constant is not None else value.producer
    if node is None or not is_constant(value):
        return False
    return is_dequantize(node) or any(is_stored(one) for one in node.inputs)


def is_multiplied_as_stored(node: Node) -> bool:
    """Whether onnxruntime multiplies by the codes of a node's weights."""
    weight = node.input(1) if node.op in _PRODUCTS else None
    return weight is not None and is_stored(weight) and weight.has_one_use


def may_be_computed(graph: Graph) -> bool:
    """Whether all codes of a graph are those of weights, so that it loses nothing with a session that knows none, and
    the weights are not too many to be held as floats."""
    codes: list[int] = []
    for node in graph.walk():
        if is_quantize(node) or (node.op in _PRODUCTS and _reads_both(node)):
            return False
        if is_dequantize(node) and is_constant(node.output):
            stored = node.constant(0)
            codes.append(0 if stored is None else stored.size)
    return bool(codes) and _FLOAT * sum(codes) <= LARGE


def _reads_both(node: Node) -> bool:
    """Codes of weights and codes that are computed, of which onnxruntime makes one product of integers."""
    makers = [value.producer for value in node.inputs[:2] if value is not None]
    return all(maker is not None and is_dequantize(maker) for maker in makers)
