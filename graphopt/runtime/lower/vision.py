"""Matchers of what stands between convolutions quantized while running: pools, clips, concatenation, all in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import Declined
from ...ir import DType, Node, TensorType, Value
from ...ops import attr
from .operands import ints
from .operations import Concat, DynamicConv, FloatClamp, FloatPool, Operation, is_float


def are_floats(node: Node, known: Mapping[Value, Operation]) -> bool:
    """All operands and the result are float32, and kernels make one of the operands."""
    values = [*(value for value in node.inputs if value is not None), node.output]
    typed = all(isinstance(v.type, TensorType) and v.type.dtype is DType.FLOAT for v in values)
    return typed and any(value in known and is_float(known[value]) for value in values[:-1])


def float_clamp(
    node: Node, bounds: tuple[float, float], known: Mapping[Value, Operation]
) -> FloatClamp | DynamicConv | None:
    """Relu or Clip; part of the convolution before, where nothing else reads that."""
    if not are_floats(node, known):
        return None
    x = node.inputs[0]
    assert x is not None
    before = known.get(x)
    if isinstance(before, DynamicConv) and before.limits == (-np.inf, np.inf) and len(x.uses) == 1:
        return replace(before, output=node.output, nodes=(*before.nodes, node), limits=bounds)
    return FloatClamp(inputs=(x,), output=node.output, nodes=(node,), low=bounds[0], high=bounds[1])


def hard_sigmoid(node: Node, known: Mapping[Value, Operation]) -> FloatClamp | None:
    """HardSigmoid: a line between 0 and 1."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    slope, shift = float(attr(node, "alpha", 0.2)), float(attr(node, "beta", 0.5))
    return FloatClamp(inputs=(x,), output=node.output, nodes=(node,), slope=slope, shift=shift, low=0.0, high=1.0)


def float_pool(node: Node, known: Mapping[Value, Operation]) -> FloatPool | None:
    """MaxPool, AveragePool and GlobalAveragePool."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    declared = x.type
    assert isinstance(declared, TensorType)
    if declared.shape is None or len(declared.shape) not in (3, 4):
        raise Declined("a pool of other than an image")
    if len(node.outputs) > 1 and not node.outputs[1].is_unused:
        raise Declined("MaxPool whose indices are used")
    if node.op == "GlobalAveragePool":
        return FloatPool(inputs=(x,), output=node.output, nodes=(node,), mean=True)
    kernel = ints(node, "kernel_shape", ())
    rank = len(kernel)
    return FloatPool(
        inputs=(x,), output=node.output, nodes=(node,), mean=node.op == "AveragePool", kernel=kernel,
        strides=ints(node, "strides", (1,) * rank), pads=ints(node, "pads", (0,) * 2 * rank),
        dilations=ints(node, "dilations", (1,) * rank), ceil_mode=bool(attr(node, "ceil_mode", 0)),
        count_include_pad=bool(attr(node, "count_include_pad", 0)), auto_pad=str(attr(node, "auto_pad", "NOTSET")),
    )  # fmt: skip


def float_concat(node: Node, known: Mapping[Value, Operation]) -> Concat | None:
    """Concat of tensors that kernels make, all of them."""
    inputs = tuple(value for value in node.inputs if value is not None)
    if not are_floats(node, known) or not all(value in known for value in inputs):
        return None
    return Concat(
        inputs=inputs, output=node.output, nodes=(node,), axis=int(node.attrs["axis"]), tables=(None,) * len(inputs),
        floats=True,
    )  # fmt: skip
