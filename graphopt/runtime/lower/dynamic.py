"""Lowering of dynamically quantized models: products quantized while running, as onnxruntime's tools write them.

- Mul(Cast(MatMulInteger(xq, W, xz, wz)), Mul(xs, ws)) with xq, xs, xz from DynamicQuantizeLinear, then Add of a bias
- com.microsoft MatMulIntegerToFloat(xq, W, xs, ws, xz, wz, bias) of the same
- com.microsoft DynamicQuantizeMatMul(x, W, ws, wz, bias)
- the first with ConvInteger, then Add of a bias along the channels, then Relu or Clip
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import Declined
from ...ir import Array, Node, Value
from ...ops import attr
from .builders import window_attributes
from .operands import constant_array
from .operations import DynamicConv, DynamicMatMul
from .traits import Operation

_TO_FLOAT = "com.microsoft::MatMulIntegerToFloat"
_FROM_FLOAT = "com.microsoft::DynamicQuantizeMatMul"
OPERATORS = frozenset(("Mul", "Add", _TO_FLOAT, _FROM_FLOAT))


def dynamic_product(node: Node, known: Mapping[Value, Operation]) -> DynamicMatMul | DynamicConv | None:
    """The dynamically quantized product whose last node is `node`, or None. Declined where kernels lack its form."""
    if node.op == "Add":
        return _with_bias(node, known)
    if node.op == "Mul":
        return _in_integers(node)
    if node.op == _FROM_FLOAT:
        x = node.inputs[0]
        assert x is not None
        return _matmul(node, (node,), x, node.input(1), node.input(2), node.input(3), node.input(4))
    quantize = _quantizer(node.inputs[0], node.input(2), node.input(4))
    if quantize is None or quantize.inputs[0] is None:
        raise Declined("an input that is not quantized while running")
    nodes, x = (quantize, node), quantize.inputs[0]
    return _matmul(node, nodes, x, node.input(1), node.input(3), node.input(5), node.input(6))


def _quantizer(codes: Value | None, scale: Value | None, zero: Value | None) -> Node | None:
    """The DynamicQuantizeLinear whose three outputs these are, or None."""
    node = None if codes is None else codes.producer
    if node is None or node.op != "DynamicQuantizeLinear" or zero is None:
        return None
    return node if tuple(node.outputs) == (codes, scale, zero) else None


def _in_integers(node: Node) -> DynamicMatMul | DynamicConv | None:
    """Mul(Cast(MatMulInteger or ConvInteger), Mul(x scale, weight scale)) that ends in `node`."""
    for slot in (0, 1):
        cast = _producer(node.inputs[slot], "Cast")
        source = None if cast is None else cast.inputs[0]
        product = _producer(source, "MatMulInteger") or _producer(source, "ConvInteger")
        scales = _producer(node.inputs[1 - slot], "Mul")
        if cast is None or product is None or scales is None:
            continue
        for side in (0, 1):
            quantize = _quantizer(product.inputs[0], scales.inputs[side], product.input(2))
            if quantize is None or quantize.inputs[0] is None:
                continue
            weight_scale = scales.inputs[1 - side]
            nodes = (quantize, product, cast, scales, node)
            if product.op == "ConvInteger":
                return _conv(node, nodes, product, quantize.inputs[0], weight_scale)
            return _matmul(node, nodes, quantize.inputs[0], product.input(1), weight_scale, product.input(3), None)
    return None


def _producer(value: Value | None, op: str) -> Node | None:
    node = None if value is None else value.producer
    return node if node is not None and node.op == op else None


def _matmul(
    node: Node, nodes: tuple[Node, ...], x: Value, weights: Value | None, scale: Value | None, zero: Value | None,
    bias: Value | None,
) -> DynamicMatMul:  # fmt: skip
    codes, factor, zeros = _weights(weights, scale, zero)
    if codes.ndim != 2:
        raise Declined(f"weights of {codes.ndim} axes")
    channels, added = codes.shape[1], constant_array(bias)
    if bias is not None and added is None:
        raise Declined("weights that are not constant")
    if any(a is not None and a.size not in (1, channels) for a in (factor, zeros, added)):
        raise Declined("scales, zero points or a bias that do not fit the output channels")
    return DynamicMatMul(
        inputs=(x,), output=node.output, nodes=nodes, weights=codes, weight_zero_point=_one_zero_point(zeros),
        scale=np.broadcast_to(factor.reshape(-1), (channels,)),
        bias=None if added is None else np.broadcast_to(added.reshape(-1), (channels,)),
    )  # fmt: skip


def _conv(
    node: Node, nodes: tuple[Node, ...], product: Node, x: Value, weight_scale: Value | None
) -> DynamicConv:  # fmt: skip
    codes, factor, zeros = _weights(product.input(1), weight_scale, product.input(3))
    rank, channels = codes.ndim - 2, len(codes)
    if rank not in (1, 2):
        raise Declined(f"a convolution over {rank} axes")
    scale = _by_channel(factor, channels, rank)
    if scale is None or (zeros is not None and zeros.size not in (1, channels)):
        raise Declined("scales or zero points that do not fit the output channels")
    return DynamicConv(
        inputs=(x,), output=node.output, nodes=nodes, weights=codes, weight_zero_point=_one_zero_point(zeros),
        scale=scale, groups=int(attr(product, "group", 1)), **window_attributes(product, rank),
    )  # fmt: skip


def _weights(weights: Value | None, scale: Value | None, zero: Value | None) -> tuple[Array, Array, Array | None]:
    """Codes, float32 scales and zero points as stored. Declined where one is not constant or has another type."""
    codes, factor, zeros = (constant_array(value) for value in (weights, scale, zero))
    if codes is None or factor is None or (zero is not None and zeros is None):
        raise Declined("weights that are not constant")
    if codes.dtype not in (np.uint8, np.int8) or factor.dtype != np.float32:
        raise Declined(f"weights of {codes.dtype} with scales of {factor.dtype}")
    return codes, factor, zeros


def _one_zero_point(zeros: Array | None) -> int | Array:
    return zeros.reshape(-1).astype(np.int32) if zeros is not None and zeros.any() else 0


def _by_channel(constant: Array, channels: int, rank: int) -> Array | None:
    """A constant that broadcasts along the channels of images with `rank` spatial axes, one value each; else None."""
    if constant.size == 1:
        return np.broadcast_to(constant.reshape(-1), (channels,))
    shape = (1,) * max(0, rank + 2 - constant.ndim) + constant.shape
    return constant.reshape(-1) if shape == (1, channels, *(1,) * rank) else None


def _with_bias(node: Node, known: Mapping[Value, Operation]) -> DynamicMatMul | DynamicConv | None:
    for slot in (0, 1):
        value = node.inputs[slot]
        product = None if value is None else known.get(value)
        if not isinstance(product, (DynamicMatMul, DynamicConv)) or product.bias is not None:
            continue
        added = constant_array(node.inputs[1 - slot])
        if added is None or added.dtype != np.float32:
            return None
        if isinstance(product, DynamicConv):
            added = _by_channel(added, len(product.weights), product.weights.ndim - 2)
        elif added.shape != product.scale.shape:
            return None
        if added is None:
            return None
        return replace(product, output=node.output, nodes=(*product.nodes, node), bias=added)
    return None
