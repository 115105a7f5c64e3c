"""Products with packed weights in onnxruntime: MatMulNBits, which dequantizes block by block as it multiplies."""

from __future__ import annotations

import numpy as np

from ....ir import Array, Model, Node
from ..numerics.blocks import in_blocks
from ..numerics.grids import Codes
from .constants import constant

PACKED_PRODUCT = "com.microsoft::MatMulNBits"
ACCURACY_LEVEL = 4
"""Inputs are rounded to 8 bits, block by block: what onnxruntime also does by default where it fuses DequantizeLinear
and MatMul (its `session.qdq_matmulnbits_accuracy_level`), so that both spellings give the same results."""


def multiply_packed(model: Model, node: Node, codes: Codes, name: str) -> None:
    """Let MatMulNBits take the place of a MatMul, or of a Gemm with its bias, with these codes in blocks.

    Source: onnxruntime's ContribOperators.md. Codes are stored without a sign around 2^(bits − 1), [N, B, block]
    packed along blocks, the first in the lowest bits; zero points alike, [N, B] packed along B.
    """
    graph, block = node.graph, codes.block
    assert graph is not None and block is not None
    middle = 1 << (codes.bits - 1)
    rows = codes.rows[0]
    stored = pack((in_blocks(rows, block) + middle).astype(np.uint8), codes.bits)
    operands = [node.inputs[0], constant(stored, name, "codes"), constant(codes.scale[0].copy(), name, "scale")]
    bias = node.input(2) if node.op == "Gemm" else None
    if codes.zero is not None or bias is not None:
        zeros = None if codes.zero is None else pack((codes.zero[0] + middle).astype(np.uint8), codes.bits)
        operands.append(None if zeros is None else constant(zeros, name, "zero"))
    if bias is not None:
        operands += [None, bias]
    attrs = {
        "K": rows.shape[1], "N": rows.shape[0], "bits": codes.bits, "block_size": block,
        "accuracy_level": ACCURACY_LEVEL,
    }  # fmt: skip
    new = Node(PACKED_PRODUCT, operands, attrs, [node.output.type], name=node.name)
    new.origins, new.made_by = node.origins, "quantize"
    new.output.name = node.output.name
    graph.insert_before(node, new)
    graph.replace_uses(node.output, new.output)
    graph.erase(node)
    model.opsets.setdefault("com.microsoft", 1)


def pack(codes: Array, bits: int) -> Array:
    """Codes uint8 [..., n] below 2^bits as bytes [..., ⌈n bits / 8⌉], the first in the lowest bits; filled with the
    middle code, 2^(bits − 1)."""
    each = 8 // bits
    missing = -codes.shape[-1] % each
    if missing:
        codes = np.pad(codes, (*((0, 0),) * (codes.ndim - 1), (0, missing)), constant_values=1 << (bits - 1))
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    packed = np.zeros(parts.shape[:-1], np.uint8)
    for place in range(each):
        packed |= parts[..., place] << np.uint8(place * bits)
    return packed
