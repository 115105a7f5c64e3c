"""Types of the results of onnxruntime's own operators, for which ONNX has no schema.

Source: the shape inference of onnxruntime's contrib operators (docs/ContribOperators.md of its repository), for those
that language models hold. Unknown sizes stay unknown; an operator that is not here passes through untyped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ir import Dim, DType, Node, TensorType, Type

DEFAULT_DOMAIN = frozenset(("SimplifiedLayerNormalization",))
"""Operators that onnxruntime registers in ONNX's own domain, where exporters for it write them. It has others there
of ONNX's first versions, which nothing writes any more."""

_Types = tuple["Type | None", ...]


def contrib_types(node: Node) -> _Types | None:
    """The types of the outputs of one of onnxruntime's own operators; None where it or its operands are unknown."""
    rule = _TABLE.get(node.op)
    first = _tensor(node, 0)
    if rule is None or first is None:
        return None
    found = rule(node, first)
    return tuple(found[index] if index < len(found) else None for index in range(len(node.outputs)))


def has_contrib_types(node: Node) -> bool:
    """`contrib_types` knows the operator."""
    return node.op in _TABLE


def _tensor(node: Node, slot: int) -> TensorType | None:
    value = node.input(slot)
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def _shape(node: Node, slot: int) -> tuple[Dim, ...] | None:
    known = _tensor(node, slot)
    return None if known is None else known.shape


def _number(node: Node, name: str) -> int | None:
    value = node.attrs.get(name)
    return value if isinstance(value, int) else None


def _same(node: Node, x: TensorType) -> _Types:
    return (x,)


def _norm(node: Node, x: TensorType) -> _Types:
    """(x − mean) / deviation, then mean and inverse deviation over the last axis in float32, then the sum."""
    kept = TensorType(DType.FLOAT, None if x.shape is None else (*x.shape[:-1], 1))
    return (x, kept, kept, x)


def _simplified(node: Node, x: TensorType) -> _Types:
    """x / root mean square of its last axes, of the type of the weight; the inverse deviation."""
    scale = _tensor(node, 1)
    axis = node.attrs.get("axis", -1)
    kept = x.shape
    if kept is not None and isinstance(axis, int):
        axis %= len(kept) or 1
        kept = (*kept[:axis], *(1 for _ in kept[axis:]))
    return (TensorType(x.dtype if scale is None else scale.dtype, x.shape), TensorType(DType.FLOAT, kept))


def _columns(node: Node, x: TensorType) -> _Types:
    """A product with packed weights: the last size is N."""
    return (TensorType(x.dtype, None if x.shape is None else (*x.shape[:-1], _number(node, "N"))),)


def _gather_blocks(node: Node, data: TensorType) -> _Types:
    """Rows of a packed table, of the type of the scales; bytes hold 8 / bits codes along the last axis."""
    scales, indices = _tensor(node, 2), _shape(node, 1)
    if scales is None:
        return (None,)
    if data.shape is None or indices is None or not data.shape:
        return (TensorType(scales.dtype, None),)
    sizes = list(data.shape)
    bits = node.attrs.get("bits", 4)
    if data.dtype is DType.UINT8 and isinstance(bits, int):
        last = sizes[-1]
        sizes[-1] = last * (8 // bits) if isinstance(last, int) else None
    axis = node.attrs.get("gather_axis", 0)
    axis = axis % len(sizes) if isinstance(axis, int) else 0
    return (TensorType(scales.dtype, (*sizes[:axis], *indices, *sizes[axis + 1 :])),)


def _grouped_attention(node: Node, query: TensorType) -> _Types:
    """Heads [batch, steps, heads · size], then keys and values [batch, kv heads, all steps, size]."""
    past = _tensor(node, 3)
    kv, heads = _number(node, "kv_num_heads"), _number(node, "num_heads")
    size: Dim = None if past is None or past.shape is None or len(past.shape) != 4 else past.shape[3]
    batch: Dim = None
    result: TensorType = query
    if query.shape is not None and len(query.shape) == 3:
        batch, steps, width = query.shape
        if node.input(1) is None and heads and kv and isinstance(width, int):  # one packed operand
            width = width // (heads + 2 * kv) * heads
            result = TensorType(query.dtype, (batch, steps, width))
        if size is None and heads and isinstance(width, int):
            size = width // heads
    cache = TensorType(query.dtype if past is None else past.dtype, (batch, kv, None, size))
    return (result, cache, cache)


_TABLE: Mapping[str, Callable[[Node, TensorType], _Types]] = {
    "SimplifiedLayerNormalization": _simplified,
    **{
        f"com.microsoft::{name}": rule
        for name, rule in {
            "SimplifiedLayerNormalization": _simplified,
            "SkipSimplifiedLayerNormalization": _norm,
            "SkipLayerNormalization": _norm,
            "MatMulNBits": _columns,
            "GatherBlockQuantized": _gather_blocks,
            "GroupQueryAttention": _grouped_attention,
            "RotaryEmbedding": _same,
            "QMoE": _same,
            "MoE": _same,
            "Gelu": _same,
            "FastGelu": _same,
            "QuickGelu": _same,
            "BiasGelu": _same,
        }.items()
    },
}
