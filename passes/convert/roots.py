"""Powers of 1/4, 1/2 and 3/4 as square roots, which onnxruntime computes with vector instructions.

Its LRN computes a power element by element; roots, and a mean over a window of channels, are among its fastest
operators. The longer form is eight times as fast (`python -m tests.bench.rules spell_lrn`): on demand, and where a
model is quantized, in which LRN would be by far the slowest operator.
"""

from __future__ import annotations

import numpy as np

from ...analysis.operands import tensor_of
from ...errors import Declined
from ...ir import DType, Node, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, op, rule


@rule(op.LRN(any_value("x"), name="norm"), min_opset=13)
def spell_lrn(build: Builder, x: Value, norm: Node) -> Value:
    """lrn(x) = x / t^(3/4) with t = b + a mean(x²) over a window of channels, and t^(3/4) = √t √√t

    Also for the powers 1, 1/2 and 1/4.
    """
    type = tensor_of(x)
    if type is None or type.dtype is not DType.FLOAT or type.shape is None or len(type.shape) not in (3, 4):
        raise Declined("not float32 images or sequences")
    size, bias, alpha = int(attr(norm, "size")), float(attr(norm, "bias", 1.0)), float(attr(norm, "alpha", 1e-4))
    if size % 2 == 0:
        raise Declined("onnxruntime has no LRN over an even window to compare with")
    if bias <= 0 or alpha < 0:
        raise Declined("a root may be of a negative number")
    none, one = (0,) * (len(type.shape) - 2), (1,) * (len(type.shape) - 2)
    pads = (size // 2, *none, size // 2, *none)
    axis = np.array([1], np.int64)
    planes = build.Unsqueeze(build.Mul(x, x), axis)  # makes channels an axis for pooling
    means = build.AveragePool(planes, kernel_shape=(size, *one), pads=pads, count_include_pad=1)
    total = build.Add(build.Mul(build.Squeeze(means, axis), np.float32(alpha)), np.float32(bias))
    return build.Div(x, _power(build, total, float(attr(norm, "beta", 0.75))))


def _power(build: Builder, t: Value, exponent: float) -> Value:
    if exponent not in (0.25, 0.5, 0.75, 1.0):
        raise Declined("the power is not 1/4, 1/2, 3/4 or 1")
    if exponent == 1.0:
        return t
    root = build.Sqrt(t)
    if exponent == 0.5:
        return root
    fourth = build.Sqrt(root)
    return fourth if exponent == 0.25 else build.Mul(root, fourth)


spell_powers = rule_pass("spell-powers", spell_lrn)
