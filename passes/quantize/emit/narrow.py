"""Codes of fewer than 8 bits: in ONNX's narrow types, or as 8-bit codes restricted to the narrower grid."""

from __future__ import annotations

import numpy as np

from ....compress.layers.linear import Linear
from ....ir import Array, DType, Node, TensorType, Value
from ..numerics.grids import Codes, NarrowGrid
from .constants import constant

TWO_BITS = 25
"""The opset that introduced 2-bit integers."""


def narrowed(x: Value, grid: NarrowGrid, packs: bool, name: str) -> list[Node]:
    """The nodes that round x to a grid of fewer than 8 bits, the dequantized value last.

    packs: codes are UINT4. Else they are bytes, and Clip keeps them on the grid: QuantizeLinear saturates only at the
    limits of the wider type. The values are equal.
    """
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    if packs:
        kind = DType.UINT4
    else:
        kind = DType.INT8 if grid.signed else DType.UINT8
    scale = constant(np.asarray(grid.scale, np.float32), "", "scale")
    zero = constant(np.asarray(grid.zero), "", "zero_point", kind)
    steps = [Node("QuantizeLinear", (x, scale, zero), name=name)]
    steps[0].output.type = TensorType(kind, shape)
    if not packs:
        ends = (constant(np.asarray(end), "", "limit", kind) for end in (grid.low, grid.high))
        steps.append(Node("Clip", (steps[0].output, *ends)))
        steps[1].output.type = TensorType(kind, shape)
    steps.append(Node("DequantizeLinear", (steps[-1].output, scale, zero)))
    steps[-1].output.type = TensorType(DType.FLOAT, shape)
    return steps


def packed_codes(linear: Linear, codes: Codes, opset: int) -> tuple[Array, Array | None, DType]:
    """Codes as INT4 or INT2 in the weight's shape, the zero points of the channels (None: all 0), and the type.

    A row whose codes exceed the type by one is stored one lower, with the zero point −1.
    """
    kind = DType.INT2 if codes.bits == 2 and opset >= TWO_BITS else DType.INT4
    most = (1 << (kind.bits - 1)) - 1
    zero = np.minimum(most - codes.rows.max(axis=-1, keepdims=True), 0).astype(np.int8)
    return linear.stored(codes.rows + zero), zero.reshape(-1) if zero.any() else None, kind
