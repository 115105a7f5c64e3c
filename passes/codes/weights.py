"""Weights stored as integers, cast and multiplied by a scale: DequantizeLinear, the form that ONNX has for them."""

from __future__ import annotations

import numpy as np

from ...analysis.operands import shape_of
from ...errors import Declined
from ...ir import Array, DType, Node, Value
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, constant, op, rule, weight


@rule(op.Mul(op.Cast(weight("w"), to=int(DType.FLOAT)), constant("s"), name="result"), min_opset=10)
def read_weight_codes(build: Builder, w: Value, s: Array, result: Node) -> Value:
    """float(W) s = dequantize(W, s) for codes W of 8 bits, bit for bit: weight-only quantization as ONNX writes it

    On demand only. onnxruntime folds the first form; before a MatMul it runs the second as a product with activations
    rounded to 8 bits (1.3 to 2 times as fast: `python -m tests.bench.rules read_weight_codes`; errors of 0.5 %),
    elsewhere it dequantizes in every run.
    """
    codes = w.constant
    assert codes is not None
    if codes.dtype not in (DType.INT8, DType.UINT8) or s.dtype != np.float32:
        raise Declined("not codes of 8 bits and a scale in single precision")
    if shape_of(result.output) != codes.shape or s.ndim > len(codes.shape):
        raise Declined("the scale widens the weights")
    if s.size == 1:
        return build.DequantizeLinear(w, s.reshape(()))
    sizes = (1,) * (len(codes.shape) - s.ndim) + s.shape
    wide = [axis for axis, size in enumerate(sizes) if size != 1]
    if len(wide) != 1 or build.opset < 13:
        raise Declined("the scale is along more than one axis")
    return build.DequantizeLinear(w, s.reshape(-1), axis=wide[0])


read_weights = rule_pass("read-weight-codes", read_weight_codes)
