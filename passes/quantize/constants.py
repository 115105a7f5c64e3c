"""Constants stored as codes: DequantizeLinear makes them float where they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import Constant, DType, Graph, Node, TensorType, Value
from .channels import ChannelGrid

Array = np.ndarray[Any, Any]


def dequantized(
    graph: Graph,
    reader: Node,
    codes: Array,
    scale: Array,
    axis: int | None,
    name: str,
    *,
    block: int | None = None,
    dtype: DType | None = None,
) -> Value:
    """The result of DequantizeLinear on constant codes, put before `reader`.

    scale: one number (axis None), one for each index of `axis`, or with `block` in the codes' shape divided by it along
    `axis`. dtype: what int8 codes are stored as, INT4 or UINT8, where that is not int8.
    """
    codes, zero_point = around(codes, dtype)
    scales = np.asarray(scale) if axis is not None else np.asarray(scale).reshape(-1)[:1].reshape(())
    operands = [constant(codes, name, "codes", dtype), constant(scales, name, "scale")]
    if codes.dtype != np.int32:
        operands.append(constant(np.full(scales.shape, zero_point, codes.dtype), name, "zero", dtype))
    attrs = {} if axis is None else {"axis": axis}
    if block is not None:
        attrs["block_size"] = block
    node = Node("DequantizeLinear", operands, attrs)
    node.made_by = "quantize"
    node.output.name = f"{name}_dequantized" if name else ""
    node.output.type = TensorType(DType.FLOAT, codes.shape)
    graph.insert_before(reader, node)
    return node.output


def around(codes: Array, dtype: DType | None) -> tuple[Array, int]:
    """int8 codes as they are stored, and their zero point: UINT8 lies around 128."""
    return (codes.view(np.uint8) ^ np.uint8(128), 128) if dtype is DType.UINT8 else (codes, 0)


def constant(array: Array, name: str, what: str, dtype: DType | None = None) -> Value:
    """A new constant, named after what it is of; `dtype` INT4 takes codes that fit 4 bits."""
    held = array if dtype is None else array.astype(dtype.numpy)
    return Value(constant=Constant.of(held, dtype), name=f"{name}_{what}" if name else what)


def along_channels(op: str, x: Value, grid: ChannelGrid, name: str) -> list[Node]:
    """Nodes that end in QuantizeLinear or DequantizeLinear of x [N, C, …] with the channels' scales, in x's shape.

    Reshapes that change nothing stand around it: onnxruntime would move its Transposes to channels-last over it, and
    where channels come last, its loop for channels takes 50 times as long.
    """
    same = constant(np.zeros(grid.rank, np.int64), "", "same_shape")
    before = Node("Reshape", (x, same))
    scale, zero = constant(grid.scale, "", "scales"), constant(grid.zero.astype(grid.base.dtype), "", "zero_points")
    middle = Node(op, (before.output, scale, zero), {"axis": 1}, name=name)
    after = Node("Reshape", (middle.output, same))
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    made = DType.FLOAT if op == "DequantizeLinear" else DType.of(np.dtype(grid.base.dtype))
    before.output.type, middle.output.type, after.output.type = x.type, *[TensorType(made, shape)] * 2
    return [before, middle, after]
