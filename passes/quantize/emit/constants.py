"""Constants stored as codes: DequantizeLinear makes them float where they are read."""

from __future__ import annotations

import numpy as np

from ....ir import Array, Constant, DType, Graph, Node, TensorType, Type, Value
from ..numerics.per_channel import ChannelGrid


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
    codes, zero_point = stored_codes(codes, dtype)
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


def stored_codes(codes: Array, dtype: DType | None) -> tuple[Array, int]:
    """int8 codes as they are stored, and their zero point: UINT8 lies around 128."""
    return (codes.view(np.uint8) ^ np.uint8(128), 128) if dtype is DType.UINT8 else (codes, 0)


def constant(array: Array, name: str, what: str, dtype: DType | None = None) -> Value:
    """A new constant, named after what it is of; `dtype` INT4 takes codes that fit 4 bits."""
    held = array if dtype is None else array.astype(dtype.numpy)
    return Value(constant=Constant.of(held, dtype), name=f"{name}_{what}" if name else what)


def along_channels(op: str, x: Value, grid: ChannelGrid, name: str) -> list[Node]:
    """Nodes that end in QuantizeLinear of x [N, C, …], or begin with DequantizeLinear, with the channels' scales.

    Long channels take them along an axis, and Reshapes that change nothing stand around that: onnxruntime would move
    its Transposes to channels-last over it, and where channels come last its loop takes 50 times as long. What is short
    is scaled beside the operator.
    """
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    codes, floats = TensorType(DType.of(np.dtype(grid.base.dtype)), shape), TensorType(DType.FLOAT, shape)
    made = floats if op == "DequantizeLinear" else codes
    if grid.is_long:
        same = constant(np.zeros(grid.rank, np.int64), "", "same_shape")
        before = _typed(Node("Reshape", (x, same)), x.type)
        zeros = constant(grid.zero.astype(grid.base.dtype), "", "zero_points")
        operands = (before.output, constant(grid.scale, "", "scales"), zeros)
        middle = _typed(Node(op, operands, {"axis": 1}, name=name), made)
        return [before, middle, _typed(Node("Reshape", (middle.output, same)), made)]
    zero = constant(np.asarray(grid.base.zero_point, grid.base.dtype), "", "zero_point")
    whole = constant(np.asarray(grid.base.scale, np.float32), "", "scale"), zero
    if op == "DequantizeLinear":
        first = _typed(Node(op, (x, *whole), name=name), floats)
        return [first, *_scaled(first.output, grid.gain, grid.lift, grid.rank)]
    steps = _scaled(x, 1 / grid.gain, -grid.lift / grid.gain, grid.rank)
    return [*steps, _typed(Node(op, (steps[-1].output, *whole), name=name), codes)]


def _scaled(x: Value, gain: Array, lift: Array, rank: int) -> list[Node]:
    """gain · x + lift of each channel."""
    steps: list[Node] = []
    for op, operand in (("Mul", gain), ("Add", lift)):
        if op == "Mul" or operand.any():
            held = constant(operand.reshape(-1, *(1,) * (rank - 2)).astype(np.float32), "", op.lower())
            steps.append(_typed(Node(op, (x, held)), x.type))
            x = steps[-1].output
    return steps


def _typed(node: Node, made: Type | None) -> Node:
    node.output.type = made
    return node
