"""Packed weights in onnxruntime: MatMulNBits, which dequantizes block by block as it multiplies, and tables that
GatherBlockQuantized reads, which may be the weight of a product."""

from __future__ import annotations

import numpy as np

from ....ir import Array, Model, Node, Value
from ....ops import update_types
from ..numerics.blocks import CHUNK, in_blocks, stored_bits
from ..numerics.grids import Codes
from ..numerics.store import CodeStore
from .constants import constant

PACKED_PRODUCT = "com.microsoft::MatMulNBits"
PACKED_TABLE = "com.microsoft::GatherBlockQuantized"
ACCURACY_LEVEL = 4
"""Inputs are rounded to 8 bits, block by block: also onnxruntime's default where it fuses DequantizeLinear and MatMul
(its `session.qdq_matmulnbits_accuracy_level`), so that both forms give the same results."""


def multiply_packed(model: Model, node: Node, codes: Codes, name: str, store: CodeStore) -> None:
    """Replace a MatMul, or a Gemm with its bias, by MatMulNBits on these codes in blocks.

    Source: onnxruntime's ContribOperators.md. Codes are stored without a sign around 2^(bits − 1), [N, B, block]
    packed along blocks, the first in the lowest bits; zero points alike, [N, B] packed along B.
    """
    block = codes.block
    assert block is not None
    rows = codes.rows[0]
    stored, scale, zero = _operands(codes, name, store)
    operands = [node.inputs[0], stored, scale]
    bias = node.input(2) if node.op == "Gemm" else None
    if zero is not None or bias is not None:
        operands.append(zero)
    if bias is not None:
        operands += [None, bias]
    attrs = {
        "K": rows.shape[1], "N": rows.shape[0], "bits": stored_bits(codes.bits), "block_size": block,
        "accuracy_level": ACCURACY_LEVEL,
    }  # fmt: skip
    _replace(model, node, [Node(PACKED_PRODUCT, operands, attrs, [node.output.type], name=node.name)])


def gather_packed(model: Model, node: Node, codes: Codes, name: str, store: CodeStore) -> Value:
    """Replace a Gather of rows by GatherBlockQuantized; returns its result.

    Codes are stored as by `multiply_packed`, so that a product reads the same constant; rows have no axis of blocks
    here, hence a Reshape, which onnxruntime folds when it loads. The last block is cut where it is partial.
    """
    assert codes.block is not None
    depth, count = codes.rows.shape[-1], codes.scale.shape[-1]
    stored, scale, zero = _operands(codes, name, store)
    flat = Node("Reshape", (stored, constant(np.array([codes.rows.shape[1], -1], np.int64), name, "rows")))
    operands = [flat.output, node.inputs[1], scale, *(() if zero is None else (zero,))]
    attrs = {"bits": stored_bits(codes.bits), "block_size": codes.block, "gather_axis": 0, "quantize_axis": 1}
    steps = [flat, Node(PACKED_TABLE, operands, attrs, name=node.name)]
    if count * codes.block != depth:
        ends = [constant(np.array([n], np.int64), name, role) for n, role in ((0, "from"), (depth, "to"), (-1, "axis"))]
        steps.append(Node("Slice", (steps[-1].output, *ends)))
    steps[-1].output.type = node.output.type
    return _replace(model, node, steps)


def _operands(codes: Codes, name: str, store: CodeStore) -> tuple[Value, Value, Value | None]:
    """The codes, scales and zero points (None where all are 0) in the form of both operators."""
    assert codes.block is not None
    bits = stored_bits(codes.bits)
    block = codes.block
    stored = store.form(codes, "packed", lambda: pack(_unsigned(in_blocks(codes.rows[0], block), bits), bits))
    zeros = None if codes.zero is None else pack(_unsigned(codes.zero[0], bits), bits)
    zero = None if zeros is None else constant(zeros, name, "zero")
    return constant(stored, name, "codes"), constant(codes.scale[0], name, "scale"), zero


def _unsigned(codes: Array, bits: int) -> Array:
    """Codes int8 around 0 as uint8 around 2^(bits − 1)."""
    return np.asarray(codes.astype(np.uint8) + np.uint8(1 << (bits - 1)))


def _replace(model: Model, node: Node, steps: list[Node]) -> Value:
    """Replace a node by `steps`; the last one computes its result, under its name."""
    graph, last = node.graph, steps[-1].output
    assert graph is not None
    for new in steps:
        new.origins, new.made_by = node.origins, "quantize"
        graph.insert_before(node, new)
        if new.output.type is None:
            update_types(new)
    wanted = node.output.name
    graph.replace_uses(node.output, last)
    graph.erase(node)
    last.name = wanted
    model.opsets.setdefault("com.microsoft", 1)
    return last


def pack(codes: Array, bits: int) -> Array:
    """Codes uint8 [..., n] below 2^bits as bytes [..., ⌈n bits / 8⌉], the first in the lowest bits; filled with the
    middle code, 2^(bits − 1)."""
    each = 8 // bits
    missing = -codes.shape[-1] % each
    if missing:
        codes = np.pad(codes, (*((0, 0),) * (codes.ndim - 1), (0, missing)), constant_values=1 << (bits - 1))
    words = np.ascontiguousarray(codes).view(f"<u{each}")  # a word holds one packed byte's codes, a byte each
    packed = np.empty(words.shape, np.uint8)
    whole, flat = words.reshape(-1), packed.reshape(-1)
    for at in range(0, len(whole), CHUNK):
        some = whole[at : at + CHUNK]
        joined = np.zeros_like(some)
        for place in range(each):
            joined |= (some >> some.dtype.type(place * (8 - bits))) & some.dtype.type((2**bits - 1) << (place * bits))
        flat[at : at + CHUNK] = joined
    return packed
