"""Constants stored as codes: DequantizeLinear makes them float where they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import Constant, DType, Graph, Node, TensorType, Type, Value
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


def quantized_along(x: Value, grid: ChannelGrid, *, apart: bool) -> list[Node]:
    """Nodes that end in the codes of x by the channels of a grid; the last is QuantizeLinear.

    apart: scale the channels before, so that one scale is left for the codes.
    """
    if not apart:
        return [_along("QuantizeLinear", x, grid)]
    steps = _affine(x, 1 / grid.gain, -grid.lift / grid.gain, grid.axis, x.type)
    return [*steps, Node("QuantizeLinear", (steps[-1].output, *_scalars(grid)))]


def dequantized_along(whole: Value, grid: ChannelGrid, *, apart: bool) -> list[Node]:
    """Nodes that end in what codes stand for by the channels of a grid; `whole`: what they stand for by one scale.

    apart: made of `whole`, so that no DequantizeLinear along an axis is needed.
    """
    if apart:
        return _affine(whole, grid.gain, grid.lift, grid.axis, whole.type)
    assert whole.producer is not None and whole.producer.inputs[0] is not None
    made = _along("DequantizeLinear", whole.producer.inputs[0], grid)
    made.output.type = whole.type
    made.output.name = f"{whole.name}_channels" if whole.name else ""
    return [made]


def _along(op: str, x: Value, grid: ChannelGrid) -> Node:
    scale, zero = constant(grid.scale, "", "scales"), constant(grid.zero.astype(grid.base.dtype), "", "zero_points")
    return Node(op, (x, scale, zero), {"axis": grid.axis})


def _scalars(grid: ChannelGrid) -> tuple[Value, Value]:
    zero = np.asarray(grid.base.zero_point, grid.base.dtype)
    return constant(np.asarray(grid.base.scale, np.float32), "", "scale"), constant(zero, "", "zero_point")


def _affine(x: Value, gain: Array, lift: Array, axis: int, made: Type | None) -> list[Node]:
    """gain · x + lift along an axis."""
    rank = len(x.type.shape or ()) if isinstance(x.type, TensorType) else 0
    shape = (-1, *(1,) * (rank - 1 - axis))
    steps: list[Node] = []
    for op, operand in (("Mul", gain), ("Add", lift)):
        if op == "Mul" or operand.any():
            steps.append(Node(op, (x, constant(operand.reshape(shape).astype(np.float32), "", op.lower()))))
            x = steps[-1].output
            x.type = made
    return steps
