"""Weights that a file stores as codes, in onnxruntime: dequantized once at loading, or in each run.

onnxruntime runs DequantizeLinear of constants in each run, so that a convolution has no weights to pack. MatMul and
Gemm multiply by the codes themselves, if they alone read them: large weights faster than floats, small ones slower.
With its quantization support disabled, onnxruntime dequantizes all weights at loading.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import Graph, Node, Value
from ...machine.sessions import LARGE
from ..lower.operands import is_constant, is_dequantize, is_quantize

ONCE: Mapping[str, str] = {"session.disable_quant_qdq": "1"}
"""The session entries with which onnxruntime dequantizes weights at loading."""

_PRODUCTS = ("MatMul", "Gemm")
_FLOAT = 4  # bytes of a float32


def is_stored(value: Value | None) -> bool:
    """Whether a value is computed from constant codes."""
    node = None if value is None or value.constant is not None else value.producer
    if node is None or not is_constant(value):
        return False
    return is_dequantize(node) or any(is_stored(one) for one in node.inputs)


def is_multiplied_as_stored(node: Node) -> bool:
    """Whether onnxruntime multiplies by the codes of a node's weights."""
    weight = node.input(1) if node.op in _PRODUCTS else None
    return weight is not None and is_stored(weight) and weight.has_one_use


def may_be_computed(graph: Graph) -> bool:
    """Whether only weights of a graph are codes, so that a session without quantization support loses nothing, and the
    weights as floats fit in LARGE bytes."""
    codes: list[int] = []
    for node in graph.walk():
        if is_quantize(node) or (node.op in _PRODUCTS and _reads_both(node)):
            return False
        if is_dequantize(node) and is_constant(node.output):
            stored = node.constant(0)
            codes.append(0 if stored is None else stored.size)
    return bool(codes) and _FLOAT * sum(codes) <= LARGE


def _reads_both(node: Node) -> bool:
    """Whether both operands are dequantized, so that onnxruntime fuses a product of integers."""
    makers = [value.producer for value in node.inputs[:2] if value is not None]
    return all(maker is not None and is_dequantize(maker) for maker in makers)
