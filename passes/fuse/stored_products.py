"""Products with stored weights that share their left operand become one: queries, keys and values of a decoder.

Codes are stored output by output, so that those of several products are one behind the other, and no bit changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...errors import Declined
from ...ir import Array, Constant, DType, Graph, Node, TensorType, Value
from ...ops import attr
from ...rewrite import Builder, Context

PRODUCT = "com.microsoft::MatMulNBits"
LEAST = 3
"""Products from which one merged product and a Split are fewer nodes. Three products of a SmolLM2-135M take 1.07 times
as long as one and a Split for one token, 1.02 for 128 tokens; two take 1.0 and 0.98 (onnxruntime 1.32, one thread,
interleaved)."""
_LARGEST = 1 << 26
"""Bytes of merged codes; larger ones stay in their file, and are not copied into memory."""


def merge_stored(graph: Graph, context: Context) -> int:
    """x W1, x W2, x W3, … = split(x [W1 W2 W3 …]) for MatMulNBits of one operand; the number of merged groups."""
    if context.target == "portable":
        return 0
    groups: dict[object, list[Node]] = {}
    for node in graph.walk():
        if node.op == PRODUCT and _is_plain(node):
            groups.setdefault((node.inputs[0], node.graph, *_form(node)), []).append(node)
    return sum(_merge(nodes, context) for nodes in groups.values() if len(nodes) >= LEAST)


def _form(node: Node) -> tuple[int, ...]:
    """The attributes that mergeable products share: depth, bits of a code, block, accuracy level."""
    return tuple(int(attr(node, name, 0)) for name in ("K", "bits", "block_size", "accuracy_level"))


def _is_plain(node: Node) -> bool:
    """Whether codes and scales are constants read here alone, zero points codes or absent, without order or bias."""
    operands = [node.input(slot) for slot in (1, 2, 3)]
    if node.input(4) is not None or node.input(5) is not None or any(v is None for v in operands[:2]):
        return False
    given = [v for v in operands if v is not None]
    zero = node.constant(3)
    return all(v.constant is not None and v.has_one_use for v in given) and (zero is None or zero.dtype is DType.UINT8)


def _merge(nodes: Sequence[Node], context: Context) -> int:
    first, (_, bits, block, _) = nodes[0], _form(nodes[0])
    x, owner = first.inputs[0], first.graph
    codes, scales = ([c for n in nodes if (c := n.constant(slot)) is not None] for slot in (1, 2))
    if x is None or owner is None or sum(c.nbytes for c in codes) > _LARGEST:
        return 0
    if not isinstance(x.type, TensorType) or x.type.rank is None or {c.dtype for c in scales} != {scales[0].dtype}:
        return 0
    sizes = [int(attr(node, "N", 0)) for node in nodes]
    blocks = -(-int(attr(first, "K", 0)) // block)
    zeros = None
    if any(node.input(3) is not None for node in nodes):
        width = -(-blocks * bits // 8)
        zeros = np.concatenate([_zeros(node, size, width, bits) for node, size in zip(nodes, sizes)])
    build = Builder(owner, context)
    try:
        operands = [x, _joined(codes, sizes), _joined(scales, sizes), zeros]
        whole = build.node(PRODUCT, *operands, attrs={**first.attrs, "N": sum(sizes)})
        if not isinstance(whole.type, TensorType) or whole.type.rank != x.type.rank:
            whole.type = TensorType(DType.FLOAT, (*(x.type.shape or ())[:-1], sum(sizes)))
        parts = build.node("Split", whole, np.array(sizes, np.int64), outputs=len(nodes), axis=x.type.rank - 1)
    except Declined:
        return 0
    if not context.commit("merge-products", first):
        return 0
    build.insert_before(first, nodes)
    for node, part in zip(nodes, parts):
        owner.replace_uses(node.output, part)
        owner.erase(node)
    return 1


def _joined(constants: Sequence[Constant], sizes: Sequence[int]) -> Value:
    """Codes or scales of all products, concatenated by output [N, …], lazily."""
    one = constants[0]
    shape = (sum(sizes), *(one.shape[1:] if len(one.shape) > 1 else (one.size // sizes[0],)))
    return Value(constant=Constant(one.dtype, shape, partial(_rows, tuple(constants), shape)))


def _rows(constants: Sequence[Constant], shape: tuple[int, ...]) -> Array:
    return np.concatenate([c.array().reshape(-1, *shape[1:]) for c in constants])


def _zeros(node: Node, size: int, width: int, bits: int) -> Array:
    """The packed zero points u8 [N, width] of a product; those of 2^(bits − 1) where it has none."""
    stored = node.constant(3)
    if stored is not None:
        return stored.array().reshape(size, width)
    middle = sum(1 << (bits - 1 + shift) for shift in range(0, 8, bits))
    return np.full((size, width), middle, np.uint8)
