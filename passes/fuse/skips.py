"""Sums and biases that onnxruntime's transformer operators take in: SkipLayerNormalization, BiasGelu, embeddings."""

from __future__ import annotations

from ...ir import DType, Graph, Node, TensorType, Value
from ...ops import attr
from ...pipeline.passes import graph_pass
from ...rewrite import QUANTIZERS, Builder, Declined, any_value, op, rule
from .epilogues import ONNXRUNTIME
from .guards import floating


def _vector(value: Value, size: object) -> bool:
    return isinstance(value.type, TensorType) and value.type.shape == (size,)


_SKIP = "com.microsoft::SkipLayerNormalization"


@graph_pass("fuse-skip-norms")
def fuse_skip_norms(graph: Graph) -> int:
    """layer_norm(x + skip), x + skip = skip_layer_norm(x, skip); only for onnxruntime, which has it."""
    if graph.model is None or graph.model.target != "onnxruntime":
        return 0
    nodes = list(graph.walk())
    if any(node.op in QUANTIZERS for node in nodes):
        return 0
    return sum(_fuse_skip(node) for node in nodes if node.op == "LayerNormalization")


def _fuse_skip(norm: Node) -> int:
    owner, total = norm.graph, norm.inputs[0]
    sum = None if total is None else total.producer
    if owner is None or sum is None or sum.op != "Add" or sum.graph is not owner or not _alike(sum, norm):
        return 0
    x, skip = sum.inputs
    build = Builder(owner)
    keeps = total is not None and not total.has_one_use
    try:
        made = build.node(
            _SKIP, x, skip, *norm.inputs[1:], outputs=4 if keeps else 1, epsilon=float(attr(norm, "epsilon", 1e-5))
        )  # fmt: skip
    except Declined:
        return 0
    if not owner.allows("fuse-skip-norm", norm):
        return 0
    node = build.nodes[0]
    node.name, node.origins = norm.name, tuple(dict.fromkeys((*sum.origins, *norm.origins)))
    owner.opsets.update(build.imports)
    owner.insert_before(sum, node)
    owner.replace_uses(norm.output, node.output)
    owner.erase(norm)
    if keeps:
        owner.replace_uses(sum.output, made[3])
    owner.erase(sum)
    return 1


def _alike(sum: Node, norm: Node) -> bool:
    """Both summands are f32[batch, length, size] of one shape, the norm is over the last axis with constants."""
    types = [v.type if v is not None else None for v in sum.inputs]
    first = types[0]
    if not isinstance(first, TensorType) or first != types[1] or first.dtype is not DType.FLOAT:
        return False
    shape = first.shape or ()
    constants = all(v is not None and v.constant is not None and _vector(v, shape[-1]) for v in norm.inputs[1:])
    whole = len(shape) == 3 and None not in shape and constants and all(out.is_unused for out in norm.outputs[1:])
    return whole and int(attr(norm, "axis", -1)) in (-1, 2)


@rule(op["com.microsoft::Gelu"](op.Add(any_value("x"), any_value("b"))), targets=ONNXRUNTIME)
def bias_into_gelu(build: Builder, x: Value, b: Value) -> Value:
    """gelu(x + b) = bias_gelu(x, b), for one number a column"""
    type = floating(x)
    if type.dtype is not DType.FLOAT or not type.shape or not _vector(b, type.shape[-1]):
        raise Declined("the bias is not one number a column")
    made: Value = build.node("com.microsoft::BiasGelu", x, b)
    return made


@rule(op["com.microsoft::FastGelu"](op.Add(any_value("x"), any_value("b"))), targets=ONNXRUNTIME)
def bias_into_fast_gelu(build: Builder, x: Value, b: Value) -> Value:
    """fast_gelu(x + b) = fast_gelu(x, b), for one number a column"""
    type = floating(x)
    if type.dtype is not DType.FLOAT or not type.shape or not _vector(b, type.shape[-1]):
        raise Declined("the bias is not one number a column")
    made: Value = build.node("com.microsoft::FastGelu", x, b)
    return made
