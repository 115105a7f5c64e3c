"""Constants stored as codes: DequantizeLinear makes them float where they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import Constant, DType, Graph, Node, TensorType, Value

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
