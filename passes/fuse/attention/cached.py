"""Attention with a cache as one operator: earlier keys and values enter, and the operator appends the new ones itself.

Repeated heads of grouped queries (Ainslie et al. 2023) fold in: the operator reads each head of the cache once.

onnxruntime's GroupQueryAttention would also absorb the rotary embedding and the Split before it, three nodes a layer.
Its results differ: on the CPU it rotates every row of a first prompt by the first position alone, and it refuses
several batch rows after a cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import Declined
from ....ir import RETURN, Dim, DType, Node, TensorType, Value
from ....ops import attr
from ....rewrite import Builder
from ..products import LARGEST, read_branch, split_columns
from .core import Attention, dims_of
from .heads import SPLIT, joined_heads, keeps_rows, last_input, repeated_heads, split_heads, straight_keys
from .masks import Masks, empty_rows_are_zeros, keeps_scores, with_shape_of_scores

_NORMS = frozenset(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"))

Caches = tuple[tuple[Node, Value], ...]
"""The Concats of earlier and new keys and values, and the outputs of the operator that replace them."""


def with_cache(build: Builder, core: Attention, masks: Masks) -> tuple[Node, Value, Caches]:
    """The replaced node, the value that replaces its result, and the caches with theirs. From opset 23 on."""
    k = straight_keys(build, core.k)
    if build.nodes:
        raise Declined("the keys are transposed anew")
    mask, rows = mask_of_operator(build, core, masks, dims_of(k)[2])
    last, result, caches = _cached(build, (core.q, k, core.v), core.out, mask, scale=core.scale)
    if rows is not None:
        whole = len(dims_of(result)) == 4
        rows = build.Unsqueeze(rows, np.array([1], np.int64)) if whole else rows
        result = build.Where(rows, result, np.float32(0))
    return last, _as(build, result, last), caches


def cache_into_operator(build: Builder, node: Node) -> tuple[Node, Value, Caches]:
    """As `with_cache`, for Attention of ONNX on heads f32[B,H,S,D], whose keys and values are joined before it."""
    heads = [v for v in node.inputs[:3] if v is not None and len(dims_of(v)) == 4]
    if len(heads) != 3 or len(node.outputs) > 1 or any(node.input(slot) is not None for slot in range(4, 7)):
        raise Declined("the operator has a cache")
    q, k, v = heads
    last, result, caches = _cached(build, (q, k, v), node.output, node.input(3), **node.attrs)
    return last, _as(build, result, last), caches


def _cached(
    build: Builder, heads: tuple[Value, Value, Value], out: Value, mask: Value | None, **attrs: Any
) -> tuple[Node, Value, Caches]:
    """The operator on heads side by side, f32[B,S,H D], where they are so before and after it, else on f32[B,H,S,D]."""
    q, k, v = heads
    fewer, few = repeated_heads(k), repeated_heads(v)
    if fewer is not None and few is not None:
        k, v = fewer, few
    caches = [_cache(value) for value in (k, v)]
    pasts, new = [cache.inputs[0] for cache in caches], [last_input(cache) for cache in caches]
    _check_heads(q, *new, *pasts)
    batch, count, rows, _ = dims_of(q)
    before = list(build.nodes)
    try:
        parts = dict[Node, dict[int, Value]]()
        operands = [_side_by_side(build, value, parts) for value in (q, *new)]
        if any(parts.values()):
            raise Declined("the product has parts of another use, and would be computed twice")
        size = _number(count) * _number(dims_of(v)[3])
        last = _joined(out, (batch, count, rows), size)
        joined = dims_of(last.output)
        if len(joined) == 3 and not keeps_rows(last) and joined[:2] != (batch, rows):
            raise Declined("the heads are joined with another axis")
        attrs |= {"q_num_heads": count, "kv_num_heads": dims_of(k)[1]}
        type = TensorType(_dtype(q), (batch, rows, size))
    except Declined:
        build.nodes[:] = before
        operands, last = [q, *new], _producer(out)
        type = TensorType(_dtype(q), dims_of(out))
    result, *presents = build.node("Attention", *operands, mask, *pasts, outputs=3, attrs=attrs)
    result.type = type
    for cache, present in zip(caches, presents):
        present.type = cache.output.type
    return last, result, tuple(zip(caches, presents))


def _as(build: Builder, result: Value, last: Node) -> Value:
    """The result in the shape of the output of `last`, which may be flat, f32[B S,H D]."""
    if len(dims_of(last.output)) == 2 and len(dims_of(result)) == 3:
        return build.Reshape(result, np.array([-1, _number(dims_of(result)[2])], np.int64))
    return result


def _cache(value: Value) -> Node:
    """The Concat of earlier and new heads, f32[B,G,P+S,D]; besides the attention, only results and sizes read it."""
    node = value.producer
    if node is None or node.op != "Concat" or len(node.inputs) != 2 or attr(node, "axis", 0) not in (2, -2):
        raise Declined("the keys or values have no cache")
    readers = [user for user in value.users if user.op not in (RETURN, "Shape")]
    if len(readers) != 1 or any(v is None or len(dims_of(v)) != 4 for v in node.inputs):
        raise Declined("the cache has other users")
    return node


def _check_heads(q: Value, k: Value, v: Value, *pasts: Value | None) -> None:
    """Declined unless batch sizes, numbers and widths of heads are those that the operator takes."""
    queries, keys, values = dims_of(q), dims_of(k), dims_of(v)
    if any(len(shape) != 4 for shape in (queries, keys, values)) or None in (*queries, *keys, *values):
        raise Declined("the shapes are not known")
    if queries[0] != keys[0] or keys[:3] != values[:3] or queries[3] != keys[3]:
        raise Declined("queries, keys and values may be broadcast")
    if _number(queries[1]) % _number(keys[1]):
        raise Declined("the heads of keys do not divide those of queries")
    for past, one in zip(pasts, (keys, values)):
        shape = dims_of(past) if past is not None else ()
        if shape[:2] != one[:2] or shape[3] != one[3]:
            raise Declined("earlier keys or values have another shape")


def mask_of_operator(
    build: Builder, core: Attention, masks: Masks, length: Dim
) -> tuple[Value | None, Value | None]:  # fmt: skip
    """The operator's mask; and, where fully masked rows must become zeros, which rows have an allowed element."""
    if core.bias is None:
        return None, None
    with_shape_of_scores(core.bias, (*dims_of(core.q)[:3], length))
    is_float = _dtype(core.q) is DType.FLOAT
    if core.allowed is not None:
        if build.context.target == "onnxruntime" and empty_rows_are_zeros():
            return core.allowed, None
        if not is_float:
            raise Declined("a mask that may leave a row empty, in half precision")
        bias, rows = masks.of(core.allowed)
        return bias, rows
    if is_float:
        return masks.above_lowest(core.bias), None
    if not keeps_scores(core.bias):
        raise Declined("a row may be masked altogether, in half precision")
    return core.bias, None


def _side_by_side(build: Builder, value: Value, parts: dict[Node, dict[int, Value]]) -> Value:
    """f32[B,S,H D] of heads f32[B,H,S,D], before a rotary embedding, too, which then takes heads side by side, and
    before a norm of each head, as Qwen 3 and Gemma 3 have it. parts: those of `_regrouped` that no head has taken."""
    node, heads = value.producer, dims_of(value)[1]
    inner = None if node is None else node.inputs[0]
    if node is None or inner is None:
        raise Declined("the heads are not computed")
    if node.op == "RotaryEmbedding" and value.has_one_use:
        return build.copy(node, [_side_by_side(build, inner, parts), *node.inputs[1:]], num_heads=heads)
    shape = dims_of(value)
    if node.op in _NORMS and value.has_one_use and _is_by_head(node):
        count, size = _number(heads), _number(shape[3])
        split = build.Reshape(_side_by_side(build, inner, parts), np.array([0, 0, count, size], np.int64))
        return build.Reshape(build.copy(node, [split, *node.inputs[1:]]), np.array([0, 0, count * size], np.int64))
    if node.op == "Split" and value.has_one_use:
        if node not in parts:
            parts[node] = dict(enumerate(_regrouped(build, node)))
        return parts[node].pop(value.index)
    width = _number(heads) * _number(shape[3])
    if node.op == "Reshape" and 1 in shape[1:3] and dims_of(inner) == (shape[0], shape[2], width):
        return inner  # of one token, or one head: they need no transposition
    if node.op != "Transpose" or tuple(node.attrs.get("perm", ())) != SPLIT:
        raise Declined("the heads are not on the second axis")
    try:
        return split_heads(value, SPLIT)[0]
    except Declined:
        return build.Reshape(inner, np.array([0, 0, width], np.int64))


def _regrouped(build: Builder, split: Node) -> tuple[Value, ...]:
    """The parts f32[B,S,H Di] of heads f32[B,H,S,D1+D2+…] that one product computes, as GPT-NeoX computes queries, keys
    and values: the columns of its weight are brought in the order of the parts."""
    whole = split.inputs[0]
    if whole is None or attr(split, "axis", 0) not in (-1, 3) or not whole.has_one_use:
        raise Declined("the heads are not split along their elements")
    (x, heads), sizes = split_heads(whole, SPLIT), [_number(dims_of(part)[-1]) for part in split.outputs]
    last = x.producer if x.has_one_use else None
    made = [] if last is None else [last, *(value.producer for value in last.inputs if value is not None)]
    branch = next((read_branch(node) for node in made if node is not None and node.op == "MatMul"), None)
    weight = None if branch is None else branch.weight.constant
    if branch is None or branch.result is not x or weight is None or weight.nbytes > LARGEST:
        raise Declined("the heads are not of one product with a constant")
    columns = np.arange(branch.columns).reshape(heads, -1)
    order = np.concatenate([part.reshape(-1) for part in np.split(columns, np.cumsum(sizes)[:-1], axis=1)])
    result = build.MatMul(branch.product.inputs[0], weight.array()[:, order])
    if branch.bias is not None and branch.bias.constant is not None:
        result = build.Add(result, branch.bias.constant.array()[order])
    return split_columns(build, result, [heads * size for size in sizes])


def _is_by_head(node: Node) -> bool:
    """Whether a norm of f32[B,H,S,D] is over D, with gains f32[D] for all heads."""
    gains = node.inputs[1:]
    return int(attr(node, "axis", -1)) in (-1, 3) and all(v is None or len(dims_of(v)) == 1 for v in gains)


def _joined(out: Value, heads: tuple[Dim, ...], size: int) -> Node:
    """The Reshape of heads f32[B,H,S,E] to f32[B,S,size]; those of one token need no transposition before it."""
    batch, _, rows = heads
    user = out.users[0] if rows == 1 and out.has_one_use else None
    if user is not None and user.op == "Reshape" and dims_of(user.output) == (batch, 1, size):
        return user
    return joined_heads(out, size)


def _producer(value: Value) -> Node:
    node = value.producer
    assert node is not None
    return node


def _number(size: Dim) -> int:
    if not isinstance(size, int):
        raise Declined("the number of heads is not known")
    return size


def _dtype(value: Value) -> DType:
    return value.type.dtype if isinstance(value.type, TensorType) else DType.UNDEFINED
