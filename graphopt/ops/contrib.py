"""Types of the results of onnxruntime's own operators, for which ONNX has no schema.

Source: the shape inference of onnxruntime's contrib operators (docs/ContribOperators.md of its repository), for those
that language models and quantized files contain. Unknown sizes stay unknown; results of other operators stay untyped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ir import Dim, DType, Node, TensorType, Type

DEFAULT_DOMAIN = frozenset(("SimplifiedLayerNormalization",))
"""Operators that onnxruntime registers in ONNX's own domain, and that exporters for onnxruntime write there. Others, of
ONNX's first versions, are no longer written."""

_Types = tuple["Type | None", ...]
_Shape = tuple[Dim, ...] | None


def contrib_types(node: Node) -> _Types | None:
    """The types of the outputs of one of onnxruntime's own operators; None where it or its operands are unknown."""
    rule = _TABLE.get(node.op)
    first = _tensor(node, 0)
    if rule is None or first is None:
        return None
    found = rule(node, first)
    return tuple(found[index] if index < len(found) else None for index in range(len(node.outputs)))


def has_contrib_types(node: Node) -> bool:
    """Whether `contrib_types` knows the operator."""
    return node.op in _TABLE


def _tensor(node: Node, slot: int) -> TensorType | None:
    value = node.input(slot)
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def _shape(node: Node, slot: int) -> _Shape:
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


def _of_codes(node: Node, a: TensorType) -> _Types:
    """a ∘ b of codes, each with scale and zero point behind it."""
    return (TensorType(a.dtype, _broadcast(a.shape, _shape(node, 3))),)


def _broadcast(a: _Shape, b: _Shape) -> _Shape:
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    pairs = zip((*(1,) * (rank - len(a)), *a), (*(1,) * (rank - len(b)), *b))
    return tuple([_one_size(one, other) for one, other in pairs])


def _one_size(one: Dim, other: Dim) -> Dim:
    if one == 1 or one == other:
        return other
    if other == 1 or isinstance(one, int):  # beside a number above 1, an open size is that or 1
        return one
    return other if isinstance(other, int) else None


def _concat(node: Node, scale: TensorType) -> _Types:
    """Concat of codes: scale and zero point of the result, then (codes, scale, zero point) of each part."""
    parts, first = [_shape(node, slot) for slot in range(2, len(node.inputs), 3)], _tensor(node, 2)
    if first is None:
        return (None,)
    if first.shape is None or any(shape is None or len(shape) != len(first.shape) for shape in parts):
        return (TensorType(first.dtype, None),)
    sizes, at = list(first.shape), int(node.attrs["axis"]) % max(1, len(first.shape))
    along = [shape[at] for shape in parts if shape]
    numbers = [size for size in along if isinstance(size, int)]
    sizes[at] = sum(numbers) if len(numbers) == len(along) else None
    return (TensorType(first.dtype, tuple(sizes)),)


def _pool(node: Node, x: TensorType) -> _Types:
    """An image with the input's channels, of one pixel where the pool is global."""
    if x.shape is None or len(x.shape) < 3:
        return (x,)
    inside = slice(1, -1) if node.attrs.get("channels_last") else slice(2, None)
    size = 1 if node.op_type == "QLinearGlobalAveragePool" else None
    sizes = list(x.shape)
    sizes[inside] = [size] * (len(sizes) - 2)
    return (TensorType(x.dtype, tuple(sizes)),)


def _gemm(node: Node, a: TensorType) -> _Types:
    """[M, N], codes if the result has a zero point, else float32."""
    zero, b = _tensor(node, 8), _shape(node, 3)
    rows, columns = (None if s is None or len(s) != 2 else s for s in (a.shape, b))
    m = None if rows is None else rows[1 if node.attrs.get("transA") else 0]
    n = None if columns is None else columns[0 if node.attrs.get("transB") else 1]
    return (TensorType(DType.FLOAT if zero is None else zero.dtype, (m, n)),)


def _product(node: Node, a: TensorType) -> _Types:
    """a · b in float32, of codes or rounded to them."""
    b = _shape(node, 1)
    if a.shape is None or b is None or min(len(a.shape), len(b)) < 2:
        return (TensorType(DType.FLOAT, None),)
    batch = _broadcast(a.shape[:-2], b[:-2])
    return (TensorType(DType.FLOAT, None if batch is None else (*batch, a.shape[-2], b[-1])),)


def _dequantized(node: Node, x: TensorType) -> _Types:
    scale = _tensor(node, 1)
    return (None if scale is None else TensorType(scale.dtype, x.shape),)


def _quantized(node: Node, x: TensorType) -> _Types:
    zero = _tensor(node, 2)
    return (TensorType(DType.UINT8 if zero is None else zero.dtype, x.shape),)


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
            "BranchwiseRMSNorm": _same,
            "QLinearAdd": _of_codes,
            "QLinearMul": _of_codes,
            "QLinearSigmoid": _same,
            "QLinearLeakyRelu": _same,
            "QLinearSoftmax": _same,
            "QLinearConcat": _concat,
            "QLinearAveragePool": _pool,
            "QLinearGlobalAveragePool": _pool,
            "QGemm": _gemm,
            "MatMulIntegerToFloat": _product,
            "DynamicQuantizeMatMul": _product,
            "DequantizeLinear": _dequantized,
            "QuantizeLinear": _quantized,
        }.items()
    },
}
