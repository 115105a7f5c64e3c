"""Fold frozen normalizations into the convolutions before them, which saves their passes over activations."""

from __future__ import annotations

from ..ir import Graph, Node, TensorType
from ..ops import attr
from .tensor import Tensor, Writer


def fold_batch_normalizations(graph: Graph) -> int:
    """γ (w ∗ x + b − m) r + β = (w s) ∗ x + ((b − m) s + β), s = γ r, r = (v + ε)^−½; returns the number folded.

    The graph computes w s and the bias: gradients of w, γ and β are those of products of weights.
    """
    writer, count = Writer(graph), 0
    for node in graph.snapshot():
        conv = node.inputs[0].producer if node.op == "BatchNormalization" and node.inputs[0] is not None else None
        if conv is not None and _folds(node, conv):
            _fold(writer, node, conv)
            count += 1
    return count


def _folds(node: Node, conv: Node) -> bool:
    if conv.op != "Conv" or conv.graph is not node.graph or not conv.outputs[0].has_one_use:
        return False
    if attr(node, "training_mode", 0) or any(not v.is_unused for v in node.outputs[1:]):
        return False
    read = [*conv.inputs[1:], *node.inputs[1:]]
    types = [v.type for v in read if v is not None]
    alike = {t.dtype for t in types if isinstance(t, TensorType)}
    return len(alike) == 1 and all(isinstance(t, TensorType) and t.rank is not None for t in types)


def _fold(writer: Writer, node: Node, conv: Node) -> None:
    writer.anchor, writer.origins = node, node.origins
    w, gamma, beta, mean, variance = (Tensor(writer, v) for v in (conv.inputs[1], *node.inputs[1:]) if v is not None)
    s = gamma / (variance + attr(node, "epsilon", 1e-5)).Sqrt()
    bias = conv.input(2)
    moved = beta - mean * s if bias is None else (Tensor(writer, bias) - mean) * s + beta
    scaled = w * s.unsqueeze(list(range(1, w.rank)))
    writer.origins = (*conv.origins, *node.origins)
    made = writer.node("Conv", conv.inputs[0], scaled, moved, **conv.attrs)
    made.value.type, made.value.name = node.outputs[0].type, node.outputs[0].name
    graph = writer.graph
    graph.replace_uses(node.outputs[0], made.value)
    graph.erase(node)
    graph.erase(conv)
