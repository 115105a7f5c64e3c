"""Lowering of products with stored weights: MatMulNBits, and a MatMul behind DequantizeLinear in blocks or by column.

Kernels quantize the other operand to 8 bits, block by block. So does onnxruntime where accuracy_level is 4, and by
default where it fuses DequantizeLinear and MatMul; other products stay in onnxruntime.
"""

from __future__ import annotations

import numpy as np

from ....errors import Declined
from ....ir import Constant, DType, Node, TensorType, Value
from ....kernels.products.blocked_matmul import BLOCKS
from ....ops import attr
from ..operands import constant_array, is_dequantize, is_float32
from .operations import BlockedMatMul
from .stored import StoredBlocks

PACKED = "com.microsoft::MatMulNBits"
_ROUNDED = 4
"""The accuracy_level that lets the other operand be rounded to 8 bits."""
_BITS = {DType.INT4: 4, DType.UINT4: 4, DType.INT8: 8, DType.UINT8: 8}
"""Bits of a code by its element type."""
_COLUMN_BLOCK = 32
"""Elements along K that share a scale of x where weights have one scale a column: onnxruntime's number. With 64, a
token of SmolLM2-135M of 8 bits reads 6 % less, and its KL against float is 0.017 instead of 0.013 (two windows of
256 tokens)."""


def packed_product(node: Node) -> BlockedMatMul:
    """MatMulNBits. Declined where kernels lack it."""
    bits, block = int(attr(node, "bits", 4)), int(attr(node, "block_size", 0))
    depth, channels = int(attr(node, "K", 0)), int(attr(node, "N", 0))
    if int(attr(node, "accuracy_level", 0)) != _ROUNDED:
        raise Declined("a product that must not round its input to 8 bits")
    if bits not in (2, 4, 8) or block not in BLOCKS:
        raise Declined(f"weights of {bits} bits in blocks of {block}")
    codes, scale, zero = (node.constant(slot) for slot in (1, 2, 3))
    if codes is None or scale is None or (node.input(3) is not None and zero is None):
        raise Declined("weights that are not constant")
    if node.input(4) is not None or (zero is not None and zero.dtype is not DType.UINT8):
        raise Declined("weights in another order, or zero points that are no codes")
    stored = StoredBlocks(codes, scale, zero, bits, block, depth, channels, by_column=True)
    return _product(node, (node,), stored, node.input(5))


def dequantized_product(node: Node) -> BlockedMatMul | None:
    """MatMul of float32 by constant weights behind a DequantizeLinear with no other reader; None for other products."""
    x, weight = node.inputs[:2]
    source = None if weight is None else weight.producer
    if source is None or weight is None or not is_dequantize(source) or not weight.has_one_use:
        return None
    codes, transposed = _codes(source.inputs[0])
    scale, zero = source.constant(1), source.constant(2)
    if codes is None or scale is None or len(codes.shape) != 2 or codes.dtype not in _BITS:
        return None
    depth, channels = reversed(codes.shape) if transposed else codes.shape
    block, axis = int(attr(source, "block_size", 0)), int(attr(source, "axis", 1))
    if block and (axis % 2 != 0 or block not in BLOCKS):
        raise Declined(f"weights in blocks of {block} along axis {axis}")
    if not block:
        if _is_dequantized(x) or not _is_by_column(scale, axis, channels):
            return None
        block = _COLUMN_BLOCK
    if source.input(2) is not None and zero is None:
        raise Declined("weights that are not constant")
    stored = StoredBlocks(
        codes, scale, zero, _BITS[codes.dtype], block, depth, channels, by_column=False, transposed=transposed
    )
    return _product(node, (source, node), stored, None)


def _codes(value: Value | None) -> tuple[Constant | None, bool]:
    """Constant codes as stored, and whether a Transpose follows them."""
    maker = None if value is None else value.producer
    if maker is not None and maker.op == "Transpose" and maker.attrs.get("perm") in (None, [1, 0], (1, 0)):
        return maker.constant(0), True
    return None if value is None else value.constant, False


def _is_dequantized(value: Value | None) -> bool:
    """Whether a DequantizeLinear computes the value, so that its product multiplies integers."""
    return value is not None and value.producer is not None and is_dequantize(value.producer)


def _is_by_column(scale: Constant, axis: int, channels: int) -> bool:
    """Whether there is one scale for the tensor, or one for each column."""
    size = int(np.prod(scale.shape))
    return size == 1 or (axis % 2 == 1 and size == channels)


def _product(node: Node, nodes: tuple[Node, ...], stored: StoredBlocks, bias: Value | None) -> BlockedMatMul:
    x, added = node.inputs[0], constant_array(bias)
    if x is None or not is_float32(x) or not _is_float32(stored.scale):
        raise Declined("a product of other than float32")
    if bias is not None and (added is None or added.dtype != np.float32 or added.size != stored.channels):
        raise Declined("a bias that is not constant")
    if not isinstance(node.output.type, TensorType):
        raise Declined("a result of unknown type")
    return BlockedMatMul(
        inputs=(x,), output=node.output, nodes=nodes, weights=stored, bits=stored.kernel_bits, block=stored.block,
        sizes=(stored.depth, stored.channels), bias=None if added is None else added.reshape(-1),
    )  # fmt: skip


def _is_float32(constant: Constant) -> bool:
    return constant.dtype is DType.FLOAT
