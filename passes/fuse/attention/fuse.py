"""Attention as one operator: Attention of ONNX from opset 23, MultiHeadAttention of onnxruntime for its target."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import Declined
from ....ir import RETURN, DType, Graph, Node, TensorType, Value, model_of
from ....ops import same_by_count
from ....pipeline.passes import graph_pass
from ....rewrite import QUANTIZERS, Builder, Context, any_value, apply_rules, op, rule
from ..evidence import not_slower
from ..products import split_columns
from .cached import Caches, cache_into_operator, mask_of_operator, with_cache
from .core import Attention, dims_of, read_attention
from .heads import (
    SPLIT,
    joined_heads,
    keeps_rows,
    key_cache,
    keys_of,
    last_input,
    repeated_heads,
    split_heads,
    straight_keys,
    value_cache,
)  # fmt: skip
from .masks import Masks, keeps_scores, with_shape_of_scores
from .packed import read_packed

_CORES = ("Softmax", "Attention")
"""The operators from which matching starts: ONNX's own Attention may lack the cache."""


@graph_pass("fuse-attention")
def fuse_attention(graph: Graph, context: Context) -> int:
    """join(softmax(scale split(q) split(k)T + bias) split(v)) = attention(q, k, v, bias), heads on the last axis."""
    model = model_of(graph)
    if model is None or (model.opset < 23 and context.target != "onnxruntime"):
        return 0
    nodes = list(graph.walk())
    quantizers = {node.op for node in nodes} & QUANTIZERS
    if not quantizers <= {"DynamicQuantizeLinear"}:
        return 0
    kept, cached_alone = dict[Graph, Masks](), bool(quantizers)
    changes = sum(
        _fuse(node, kept, context, cached_alone) for node in nodes if node.op in _CORES and node.graph is not None
    )
    if cached_alone:
        return changes
    rules = tuple(not_slower((projections_into_attention,)))
    return changes + apply_rules(graph, rules, "fuse-attention", context).total()


def _fuse(core: Node, kept: dict[Graph, Masks], context: Context, cached_alone: bool) -> int:
    """cached_alone: where codes of other values follow while running, a decoder gains by its cache, others do not."""
    owner = core.graph
    assert owner is not None
    masks = kept.setdefault(owner, Masks(owner, context))
    build = Builder(owner, context)
    try:
        if core.op == "Attention":
            last, result, caches = cache_into_operator(build, core)
        else:
            last, result, caches = _build(
                build, read_attention(core), context.target == "onnxruntime", masks, cached_alone
            )
    except Declined:
        masks.forget()
        return 0
    if not context.commit("fuse-attention", core):
        masks.forget()
        return 0
    masks.insert()
    for node in build.nodes:
        node.name = last.name if node.output is result else ""
    build.insert_before(last, [*_between(core, last), *(node for node, _ in caches)])
    owner.replace_uses(last.output, result)
    for node, present in caches:
        _return(owner, node, present)
    owner.erase_unused(last)
    return 1


def _return(graph: Graph, cache: Node, present: Value) -> None:
    """Make `present`, an output of the operator, the graph's output in place of the Concat's result."""
    for node, slot in cache.output.uses:
        if node.op == RETURN and node.graph is not None:
            node.graph.set_input(node, slot, present)


def _between(core: Node, last: Node) -> list[Node]:
    """The nodes from the Softmax to `last`; nodes before the Softmax name the operands instead."""
    nodes, node = [core], core
    while node is not last and len(nodes) < 8:
        node = node.output.users[-1]
        nodes.append(node)
    return nodes


def _build(
    build: Builder, core: Attention, for_onnxruntime: bool, masks: Masks, cached_alone: bool
) -> tuple[Node, Value, Caches]:
    """The node whose result is replaced, the value that replaces it, and the caches with theirs."""
    if _dtype(core.q) is not DType.FLOAT:
        if build.opset < 23:
            raise Declined("onnxruntime's own operator is measured in single precision only")
        if not keeps_scores(core.bias):
            raise Declined("a row may be masked altogether, in half precision")
        for_onnxruntime = False
    if build.opset < 23 and cached_alone:
        raise Declined("no operator has a cache")
    if build.opset < 23:
        return _side_by_side(build, core, for_onnxruntime, masks)
    try:
        return with_cache(build, core, masks)
    except Declined:
        if cached_alone:
            raise
        build.nodes.clear()
    try:
        return _side_by_side(build, core, for_onnxruntime, masks)
    except Declined:
        build.nodes.clear()
        return _four_axes(build, core, masks)


def _four_axes(build: Builder, core: Attention, masks: Masks) -> tuple[Node, Value, Caches]:
    """Attention of ONNX on f32[B,H,S,D]; repeated keys and values enter with their fewer heads."""
    q, k, v = core.q, straight_keys(build, core.k), core.v
    whole = [dims_of(x) for x in (q, k, v)]
    if any(len(shape) != 4 or None in shape for shape in whole):
        raise Declined("the shapes are not known")
    if whole[0][:2] != whole[1][:2] or whole[1][:2] != whole[2][:2]:  # the number of keys must match the product's
        raise Declined("queries, keys and values may be broadcast")
    fewer, few = repeated_heads(k), repeated_heads(v)
    if fewer is not None and few is not None and dims_of(fewer)[:2] == dims_of(few)[:2]:
        k, v = fewer, few
    mask, rows = mask_of_operator(build, core, masks, whole[1][2])
    result = build.Attention(q, k, v, mask, scale=core.scale)
    if rows is not None:
        result = build.Where(build.Unsqueeze(rows, np.array([1], np.int64)), result, np.float32(0))
    last = core.out.producer
    assert last is not None
    return last, result, ()


def _side_by_side(build: Builder, core: Attention, for_onnxruntime: bool, masks: Masks) -> tuple[Node, Value, Caches]:
    """Attention on f32[B,S,H D], with the heads side by side on the last axis."""
    caches = key_cache(core.k), value_cache(core.v)
    packed, pasts = read_packed(core), tuple[Value | None, ...]()
    if packed is not None:
        (q, k, v), heads = split_columns(build, packed.source, [packed.heads * packed.width] * 3), packed.heads
        key_heads = value_heads = heads
    elif caches[0] is None or caches[1] is None:
        (q, heads), (k, key_heads), (v, value_heads) = (
            split_heads(core.q, SPLIT, build), keys_of(core.k, build), split_heads(core.v, SPLIT, build)
        )  # fmt: skip
    else:
        q, heads = split_heads(core.q, SPLIT)
        (k, key_heads), (v, value_heads) = (split_heads(last_input(cache), SPLIT) for cache in caches if cache)
        pasts = caches[0].inputs[0], caches[1].inputs[0]
    if len({heads, key_heads, value_heads}) != 1:
        raise Declined("keys and values have other heads")
    queries, keys, values = dims_of(q), dims_of(k), dims_of(v)
    if queries[0] != keys[0] or keys[:2] != values[:2]:
        raise Declined("queries, keys and values may be broadcast")
    size = values[2]
    assert isinstance(size, int)
    _check_pasts(pasts, keys[0], heads, (keys[2], size))
    last = joined_heads(core.out, size)
    joined = dims_of(last.output)
    if len(joined) == 3 and not keeps_rows(last) and not same_by_count(joined[:2], queries[:2]):
        raise Declined("the heads are joined with another axis")
    scores = (queries[0], heads, queries[1], dims_of(core.k)[3] if pasts else keys[1])
    bias = None if core.bias is None else with_shape_of_scores(core.bias, scores)
    any_allowed = None
    if core.allowed is not None:
        if _dtype(q) is not DType.FLOAT:
            raise Declined("a mask that may leave a row empty, in half precision")
        bias, any_allowed = masks.of(core.allowed)
    elif bias is not None and not for_onnxruntime:
        bias = _above(bias, masks)
    operands = [None, None, bias] if for_onnxruntime else [bias]
    attrs: dict[str, Any] = {"num_heads": heads} if for_onnxruntime else {"q_num_heads": heads, "kv_num_heads": heads}
    kind = "com.microsoft::MultiHeadAttention" if for_onnxruntime else "Attention"
    build.node(kind, q, k, v, *operands, *pasts, outputs=3 if pasts else 1, scale=core.scale, **attrs)
    result, *presents = build.nodes[-1].outputs
    result.type = TensorType(_dtype(q), (*queries[:2], size))
    replaced = tuple((cache, present) for cache, present in zip(caches, presents) if cache is not None)
    for cache, present in replaced:
        present.type = cache.output.type
    if any_allowed is not None:
        result = build.Where(any_allowed, result, np.float32(0))
    if len(joined) == 2:
        result = build.Reshape(result, np.array([-1, size], np.int64))
    return last, result, replaced


def _dtype(value: Value) -> DType:
    return value.type.dtype if isinstance(value.type, TensorType) else DType.UNDEFINED


def _check_pasts(
    pasts: tuple[Value | None, ...], batch: object, heads: int, widths: tuple[object, object]
) -> None:  # fmt: skip
    shapes = [dims_of(value) for value in pasts if value is not None]
    for shape, width in zip(shapes, widths):
        if not isinstance(width, int) or shape[:2] != (batch, heads) or shape[3] != width // heads:
            raise Declined("earlier keys or values have another shape")
    if len({shape[2] for shape in shapes}) > 1:
        raise Declined("there are not as many earlier keys as values")


def _above(bias: Value, masks: Masks) -> Value:
    return masks.above_lowest(bias) if _dtype(bias) is DType.FLOAT else bias


_PARTS = op.Split(
    op("Add", "MatMul")(any_value("a"), any_value("b"), name="sum"), any_value("sizes", optional=True), name="parts",
    shared=True,
)  # fmt: skip


@rule(
    op["com.microsoft::MultiHeadAttention"](
        _PARTS.out(0), _PARTS.out(1), _PARTS.out(2), any_value("qkv_bias", optional=True),
        any_value("padding", optional=True), any_value("bias", optional=True), name="attention",
    ),
    targets=("onnxruntime",),
)  # fmt: skip
def projections_into_attention(
    build: Builder, sum: Node, parts: Node, attention: Node, bias: Value | None, qkv_bias: Value | None,
    padding: Value | None,
) -> Value:  # fmt: skip
    """mha(split(x [Wq Wk Wv] + [bq bk bv])) = attention(x, [Wq Wk Wv], [bq bk bv])"""
    product = sum if sum.op == "MatMul" else next((v.producer for v in sum.inputs if v and v.producer), None)
    shift = None if sum is product else next((v for v in sum.inputs if v and v.constant), None)
    if product is None or product.op != "MatMul" or qkv_bias is not None or padding is not None:
        raise Declined("not a product with a bias")
    if not all(part.has_one_use for part in parts.outputs) or not sum.output.has_one_use:
        raise Declined("keys or values are used elsewhere, so that the product would be computed twice")
    x, w = product.inputs
    sizes = {dims_of(v)[-1:] for v in parts.outputs}
    if (
        w is None
        or w.constant is None
        or x is None
        or len(dims_of(x)) != 3
        or len(sizes) != 1
        or len(parts.outputs) != 3
    ):
        raise Declined("not three equal parts")
    if sum is not product and (shift is None or not product.output.has_one_use):
        raise Declined("the bias is computed")
    columns = w.constant.shape[-1]
    biases = np.zeros(columns, np.float32) if shift is None else shift
    return build.node(
        "com.microsoft::Attention", x, w, biases, None, None, bias,
        num_heads=attention.attrs["num_heads"], scale=attention.attrs.get("scale"),
    )  # fmt: skip
