"""Codes that are made float and quantized alike again stay codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Node, TensorType, Value
from ..pipeline.passes import rule_pass
from ..rewrite import Builder, Declined, any_value, constant, op, rule

Array = np.ndarray[Any, Any]


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


drop_requantization = rule_pass("drop-requantization", keep_codes, doc=__doc__)
