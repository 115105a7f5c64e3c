"""Lowering of RMSNormalization as a subgraph of decoders, of InstanceNormalization, and of means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ....errors import Declined
from ....ir import Node, Value
from ....ops import attr
from ..operands import constant_array, declared_shape, ints, is_float32
from ..operations import LayerNorm
from ..traits import Operation
from .gelu import is_made, scalar
from .operations import FloatMean, InstanceNorm

_HALF = 0.5  # the power of a square root


def rms_norm(node: Node, known: Mapping[Value, Operation]) -> LayerNorm | None:
    """x / sqrt(mean of x² + epsilon), optionally times a constant, whose last node is Mul or Div `node`; else None."""
    scaled = _scaled(node, known)
    if scaled is not None:
        return scaled
    for slot in (0, 1) if node.op == "Mul" else (0,):
        x, divisor = node.inputs[slot], node.inputs[1 - slot]
        covered = [node]
        root = divisor if node.op == "Div" else _inverted(divisor, covered)
        epsilon = None if x is None else _epsilon(root, x, covered)
        if x is None or epsilon is None or not is_float32(x) or not isinstance(declared_shape(x)[-1], int):
            continue
        return LayerNorm(
            inputs=(x,), output=node.output, nodes=tuple(reversed(covered)), scale=np.ones(1, np.float32), bias=None,
            epsilon=epsilon, y=None, centred=False,
        )  # fmt: skip
    return None


def _scaled(node: Node, known: Mapping[Value, Operation]) -> LayerNorm | None:
    """An RMS norm without other readers, times one constant factor a channel; else None."""
    for x, factor in (node.inputs, tuple(reversed(node.inputs))) if node.op == "Mul" else ():
        norm, scale = None if x is None else known.get(x), constant_array(factor)
        if x is None or scale is None or not isinstance(norm, LayerNorm) or norm.centred or norm.y is not None:
            continue
        shape = declared_shape(x)
        fits = (
            scale.ndim > 0
            and scale.size == scale.shape[-1]
            and scale.shape[-1] in (1, shape[-1])
            and scale.ndim <= len(shape)
        )
        if fits and scale.dtype == np.float32 and len(x.uses) == 1 and np.array_equal(norm.scale, [1]):
            return replace(norm, output=node.output, nodes=(*norm.nodes, node), scale=scale.reshape(-1))
    return None


def _inverted(value: Value | None, covered: list[Node]) -> Value | None:
    """The divisor d where `value` = 1 / d, by Reciprocal or Div; `value` itself where it is a power of −½."""
    node = None if value is None else value.producer
    if node is None or node.op not in ("Reciprocal", "Div", "Pow"):
        return None
    if node.op == "Pow":
        return value if scalar(node.inputs[1]) == -_HALF else None
    if node.op == "Div" and scalar(node.inputs[0]) != 1:
        return None
    covered.append(node)
    return node.inputs[-1]


def _epsilon(root: Value | None, x: Value, covered: list[Node]) -> float | None:
    """The epsilon of `root` = sqrt(mean of x² over the last axis + epsilon), or of 1 / root; None for other values."""
    node = None if root is None else root.producer
    if node is None or not (node.op == "Sqrt" or (node.op == "Pow" and abs(scalar(node.inputs[1]) or 0) == _HALF)):
        return None
    added = None if node.inputs[0] is None else node.inputs[0].producer
    if added is None or added.op != "Add":
        return None
    for slot in (0, 1):
        epsilon, value = scalar(added.inputs[slot]), added.inputs[1 - slot]
        mean = None if value is None else value.producer
        if epsilon is None or mean is None or mean.op != "ReduceMean" or not attr(mean, "keepdims", 1):
            continue
        square = None if mean.inputs[0] is None else mean.inputs[0].producer
        if _axes(mean) not in ((-1,), (len(declared_shape(x)) - 1,)) or square is None:
            return None
        if (square.op == "Pow" and square.inputs[0] is x and scalar(square.inputs[1]) == 2) or (
            square.op == "Mul" and all(v is x for v in square.inputs)
        ):
            covered += [node, added, mean, square]
            return epsilon
    return None


def _axes(node: Node) -> tuple[int, ...]:
    """The axes of a reduction. Declined where they are not constant."""
    value = node.input(1)
    array = constant_array(value)
    if value is not None and array is None:
        raise Declined("a mean over axes that are not constant")
    return ints(node, "axes", ()) if array is None else tuple(int(v) for v in array.reshape(-1).tolist())


def float_mean(node: Node, known: Mapping[Value, Operation]) -> FloatMean | None:
    """ReduceMean of float32; None where kernels do not compute its operand."""
    x = node.inputs[0]
    if not is_made(x, known) or not is_float32(node.output):
        return None
    axes = _axes(node)
    if not axes and attr(node, "noop_with_empty_axes", 0):
        raise Declined("a mean over no axis")
    return FloatMean(
        inputs=(x,), output=node.output, nodes=(node,), axes=axes, keep=bool(attr(node, "keepdims", 1))
    )  # fmt: skip


def instance_norm(node: Node, known: Mapping[Value, Operation]) -> InstanceNorm | None:
    """InstanceNormalization of float32 with constant scale and bias; None where kernels do not compute its operand."""
    x, scale, bias = node.inputs[0], constant_array(node.input(1)), constant_array(node.input(2))
    if not is_made(x, known) or not is_float32(node.output):
        return None
    if scale is None or bias is None or {scale.dtype, bias.dtype} != {np.dtype(np.float32)}:
        raise Declined("InstanceNormalization by other than constants")
    epsilon = float(attr(node, "epsilon", 1e-5))
    return InstanceNorm(inputs=(x,), output=node.output, nodes=(node,), scale=scale, bias=bias, epsilon=epsilon)
