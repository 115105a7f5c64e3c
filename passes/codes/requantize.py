"""Codes that are dequantized only to be quantized again stay codes; limits between are limits on codes."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, constant, op, rule
from .grids import grid_of

_ON_CODES = frozenset(
    ("Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid")
)
"""Operators that onnxruntime runs on codes where DequantizeLinear comes before them and QuantizeLinear after."""


@rule(op.QuantizeLinear(op.DequantizeLinear(any_value("x"), constant("s"), constant("z"), name="read", shared=True),
                        constant("t"), constant("u"), name="write"))  # fmt: skip
def keep_codes(build: Builder, x: Value, s: Array, z: Array, t: Array, u: Array, read: Node, write: Node) -> Value:
    """q(dq(x)) = x for one scale and zero point: (x − z) s / s differs from the integer x − z by less than ½"""
    if write.output.is_result:
        raise Declined("a result of the model")
    if s.shape != t.shape or not np.array_equal(s, t) or z.dtype != u.dtype or not np.array_equal(z, u):
        raise Declined("another scale or zero point")
    if s.size > 1 and read.attrs.get("axis", 1) != write.attrs.get("axis", 1):
        raise Declined("another axis")
    if any(node.attrs.get(name) for node in (read, write) for name in ("block_size", "output_dtype", "precision")):
        raise Declined("blocks or an output type of its own")
    if not (isinstance(x.type, TensorType) and x.type.dtype.numpy == z.dtype) or z.dtype.itemsize != 1:
        raise Declined("codes of another type")
    if not np.all(np.isfinite(s)) or not np.all(s > np.finfo(np.float32).tiny * 256):
        raise Declined("a scale so small that products are rounded")
    return x


def _limits(limit: Node, low: Array | None, high: Array | None) -> tuple[float, float]:
    if limit.op == "Relu":
        return 0.0, np.inf
    ends = limit.attrs.get("min", -np.inf), limit.attrs.get("max", np.inf)
    given = [end if array is None else array for end, array in zip(ends, (low, high))]
    if any(np.size(end) != 1 for end in given):
        raise Declined("a limit is not one number")
    bottom, top = (float(np.reshape(end, ())) for end in given)
    if not bottom <= top:
        raise Declined("the limits are in the wrong order")
    return bottom, top


@rule(
    op.QuantizeLinear(
        op("Relu", "Clip")(
            any_value("x"), constant("low", optional=True), constant("high", optional=True), name="limit"
        ),
        constant(), constant(optional=True), name="write",
    ),
    min_opset=10,
)  # fmt: skip
def limit_codes(
    build: Builder, x: Value, low: Array | None, high: Array | None, limit: Node, write: Node
) -> Value:  # fmt: skip
    """q(clip(x, a, b)) = clip(q(x), q(a), q(b)): q never falls, so it commutes with minimum and maximum

    No Clip is left where saturation has the same effect. Otherwise the rule gains only where x comes from an operator
    that onnxruntime then runs on codes.
    """
    grid = grid_of(write)
    if grid is None or (limit.op == "Clip" and low is not None and low.dtype != np.float32):
        raise Declined("not one scale in single precision")
    bottom, top = (grid.code(end) for end in _limits(limit, low, high))
    codes = build.copy(write, [x, *write.inputs[1:]])
    if bottom == grid.lowest and top == grid.highest:
        return codes
    node = x.producer
    if build.context.target != "onnxruntime" or build.opset < 12:
        raise Declined("a Clip of codes is no faster for the target")
    if node is None or node.op not in _ON_CODES or not x.has_one_use or not all(map(_is_read, node.inputs[:2])):
        raise Declined("the limited value is not computed on codes")
    ends = [None if end in (grid.lowest, grid.highest) else np.array(end, grid.dtype) for end in (bottom, top)]
    return build.Clip(codes, *ends)


def _is_read(value: Value | None) -> bool:
    return value is None or (value.producer is not None and value.producer.op == "DequantizeLinear")


@rule(op("com.microsoft::QuantizeLinear", "com.microsoft::DequantizeLinear")(
    any_value("x"), constant("s"), constant("z"), name="node"), min_opset=10)  # fmt: skip
def use_standard_codes(build: Builder, x: Value, s: Array, z: Array, node: Node) -> Value:
    """com.microsoft q(x) = q(x), com.microsoft dq(x) = dq(x): for one scale and 8 bits (16 from opset 21)"""
    if s.size != 1 or s.dtype != np.float32 or z.size != 1 or not (z.dtype.itemsize == 1 or build.opset >= 21):
        raise Declined("ONNX has no such codes at this opset")
    scale, zero = s.reshape(()), z.reshape(())
    return build.node(node.op_type, x, scale, zero, name=node.name)


drop_requantization = rule_pass("drop-requantization", keep_codes, limit_codes, use_standard_codes, doc=__doc__)
