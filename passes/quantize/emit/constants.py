"""Constants stored as codes, with a DequantizeLinear for their readers, or nodes that are folded as a model loads."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import Array, Constant, DType, Graph, Node, TensorType, Type, Value
from ....kernels.tensors.quantization import Quantization
from ....ops import update_types
from ..numerics.per_channel import ChannelGrid


def dequantized(
    graph: Graph,
    reader: Node,
    codes: Array | Constant,
    scale: Array,
    axis: int | None,
    name: str,
    *,
    block: int | None = None,
    zero: Array | None = None,
    dtype: DType | None = None,
    at_load: bool = False,
) -> Value:
    """The result of DequantizeLinear on constant codes, inserted before `reader`.

    at_load: (Cast(codes) − zero) · scale in its place, the same numbers, which runtimes fold as they load.

    scale: one number (axis None), one for each index of `axis`, or with `block` in the codes' shape divided by it along
    `axis`. zero: int8 zero points in the shape of `scale`, with `block`; None for 0. dtype: the stored type of int8
    codes, INT4, INT2 or UINT8; None for int8. INT2 is read through Cast to int8, which runtimes fold as they load:
    onnxruntime 1.32 fuses convolutions with it into a QLinearConv that it then refuses.
    """
    zero_point = 0
    if isinstance(codes, Constant):
        packed = Value(constant=codes, name=f"{name}_codes" if name else "codes")
    else:
        codes, zero_point = stored_codes(codes, dtype)
        packed = constant(codes, name, "codes", dtype)
    if at_load:
        return _computed_at_load(graph, reader, packed, scale, axis, name, block, zero, zero_point, dtype)
    assert packed.constant is not None
    kind = packed.constant.dtype
    if dtype is DType.INT2:
        dtype = DType.INT8
        cast = Node("Cast", (packed,), {"to": int(dtype)}, [TensorType(dtype, codes.shape)])
        cast.made_by = "quantize"
        graph.insert_before(reader, cast)
        packed = cast.output
    scales = np.asarray(scale) if axis is not None else np.asarray(scale).reshape(-1)[:1].reshape(())
    operands = [packed, constant(scales, name, "scale")]
    if zero is not None:
        operands.append(constant(stored_codes(zero, dtype)[0], name, "zero", dtype))
    elif kind is not DType.INT32 and not (block is not None and zero_point == 0):  # 0 for a block without a zero point
        operands.append(constant(np.full(scales.shape, zero_point, kind.numpy), name, "zero", dtype))
    attrs = {} if axis is None else {"axis": axis}
    if block is not None:
        attrs["block_size"] = block
    node = Node("DequantizeLinear", operands, attrs)
    node.made_by = "quantize"
    node.output.name = f"{name}_dequantized" if name else ""
    node.output.type = TensorType(DType.FLOAT, codes.shape)
    graph.insert_before(reader, node)
    return node.output


def _computed_at_load(
    graph: Graph, reader: Node, packed: Value, scale: Array, axis: int | None, name: str, block: int | None,
    zero: Array | None, zero_point: int, dtype: DType | None,
) -> Value:  # fmt: skip
    """(Cast(codes) − zero) · scale; arguments as those of `dequantized`."""
    assert packed.constant is not None
    shape = packed.constant.shape

    def emit(role: str, op: str, *inputs: Value, **attrs: Any) -> Value:
        return insert_typed(graph, reader, Node(op, inputs, attrs), f"{name}_{role}" if name else "")

    def floats(codes: Value, role: str) -> Value:
        if dtype in (DType.INT4, DType.INT2):  # onnxruntime casts them to integers only
            codes = emit(f"{role}_bytes", "Cast", codes, to=int(DType.INT8))
        return emit(f"{role}_floats", "Cast", codes, to=int(DType.FLOAT))

    def spread(values: Value, role: str) -> Value:
        """Values of blocks, for each input of a block."""
        if block is None or axis is None:
            return values
        of_block = constant(np.arange(shape[axis]) // block, name, f"{role}_blocks")
        return emit(f"{role}_spread", "Gather", values, of_block, axis=axis)

    result = floats(packed, "codes")
    if zero is not None:
        zeros = constant(stored_codes(zero, dtype)[0], name, "zero", dtype)
        result = emit("centered", "Sub", result, spread(floats(zeros, "zero"), "zero"))
    elif zero_point:
        result = emit("centered", "Sub", result, constant(np.array(zero_point, np.float32), name, "zero"))
    scales = np.asarray(scale, np.float32)
    if axis is None:
        scales = scales.reshape(-1)[:1].reshape(())
    elif block is None:
        scales = scales.reshape(*(-1 if k == axis % len(shape) else 1 for k in range(len(shape))))
    return emit("dequantized", "Mul", result, spread(constant(scales, name, "scale"), "scale"))


def insert_typed(graph: Graph, before: Node, node: Node, name: str) -> Value:
    """The result of a node of this stage, inserted before another, under its name and with its inferred type."""
    node.made_by, node.output.name = "quantize", name
    graph.insert_before(before, node)
    update_types(node)
    return node.output


def stored_codes(codes: Array, dtype: DType | None) -> tuple[Array, int]:
    """int8 codes in their stored form, and their zero point: 128 for UINT8."""
    return (codes.view(np.uint8) ^ np.uint8(128), 128) if dtype is DType.UINT8 else (codes, 0)


def constant(array: Array, owner: str, role: str, dtype: DType | None = None) -> Value:
    """A new constant, named after its owner and role; `dtype` INT4 takes codes that fit 4 bits."""
    array = array if dtype is None else array.astype(dtype.numpy, copy=False)
    return Value(constant=Constant.of(array, dtype), name=f"{owner}_{role}" if owner else role)


def grid_operands(grid: Quantization) -> tuple[Value, Value]:
    """The scale and the zero point of a grid, as scalars."""
    scale = constant(np.asarray(grid.scale, np.float32), "", "scale")
    return scale, constant(np.asarray(grid.zero_point, grid.dtype), "", "zero_point")


def along_channels(op: str, x: Value, grid: ChannelGrid, name: str) -> list[Node]:
    """QuantizeLinear or DequantizeLinear of x [N, C, …] with the channels' scales, as nodes in order.

    Long channels use scales along an axis, between two no-op Reshapes: without them onnxruntime moves its channels-last
    Transposes across the operator, whose loop over last channels takes 50 times as long. Short channels are scaled by
    Mul and Add beside the operator.
    """
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    codes, floats = TensorType(DType.of(np.dtype(grid.base.dtype)), shape), TensorType(DType.FLOAT, shape)
    result = floats if op == "DequantizeLinear" else codes
    if grid.is_long:
        same = constant(np.zeros(grid.rank, np.int64), "", "same_shape")
        before = _typed(Node("Reshape", (x, same)), x.type)
        zeros = constant(grid.zero.astype(grid.base.dtype), "", "zero_points")
        operands = (before.output, constant(grid.scale, "", "scales"), zeros)
        middle = _typed(Node(op, operands, {"axis": 1}, name=name), result)
        return [before, middle, _typed(Node("Reshape", (middle.output, same)), result)]
    whole = grid_operands(grid.base)
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
            factor = constant(operand.reshape(-1, *(1,) * (rank - 2)).astype(np.float32), "", op.lower())
            steps.append(_typed(Node(op, (x, factor)), x.type))
            x = steps[-1].output
    return steps


def _typed(node: Node, type: Type | None) -> Node:
    node.output.type = type
    return node
