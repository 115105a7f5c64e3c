"""Convolutions and matrix products seen alike: rows of weights [G, N, K] times patches of their input [G, R, K]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...ops import attr

LINEAR = frozenset(("Conv", "Gemm", "MatMul"))


@dataclass(frozen=True, slots=True)
class Linear:
    """A node y = W x + b with constant W and constant or no b.

    weight: f32 as stored. axis: along which its output channels lie. groups: of a convolution, else 1. addition: for a
    MatMul, the Add behind it that holds its bias, with the slot. rescaled: where the weight of a
    convolution belongs to x' with x = T x' + d, T and d of each channel of the input.
    """

    node: Node
    weight: Array
    bias: Array | None
    axis: int
    groups: int
    addition: tuple[Node, int] | None = None
    rescaled: tuple[Array, Array] | None = None

    @property
    def takes_bias(self) -> bool:
        """A number can be added to each output channel at no cost."""
        return self.node.op in ("Conv", "Gemm") or self.addition is not None

    @property
    def channels(self) -> int:
        """Output channels, N · G."""
        return int(self.weight.shape[self.axis])

    @property
    def depth(self) -> int:
        """Products that one result sums, K."""
        return int(self.weight.size // self.channels)

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a group: onnxruntime multiplies these one by one, never in pairs."""
        return self.node.op == "Conv" and self.groups > 1 and self.weight.shape[:2] == (self.groups, 1)

    def rows(self) -> Array:
        """The weight as f32 [G, N/G, K], K in the order of `patches`."""
        return self.rows_of(self.weight)

    def rows_of(self, stored: Array) -> Array:
        """Anything in the weight's shape as [G, N/G, K]."""
        front = np.moveaxis(stored, self.axis, 0)
        return front.reshape(self.groups, self.channels // self.groups, self.depth)

    def stored(self, rows: Array) -> Array:
        """The inverse of `rows_of`."""
        front = np.moveaxis(self.weight, self.axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(rows.reshape(front), 0, self.axis))

    def patches(self, x: Array, rows: int, rng: np.random.Generator) -> Array:
        """At most `rows` of the vectors that the weight is multiplied with, drawn at random: f32 [G, R, K]."""
        if self.rescaled is not None:
            shape = (-1, *(1,) * (x.ndim - 2))
            gain, lift = (part.reshape(shape) for part in self.rescaled)
            x = ((x - lift) / gain).astype(np.float32)
        if self.node.op != "Conv":
            flat = x.reshape(-1, x.shape[-1])
            return _some(flat, rows, rng)[None]
        return _conv_patches(self, x, rows, rng)


def linear_of(node: Node) -> Linear:
    """The node as a linear map. Declined where it is none that can be quantized."""
    weight = node.constant(1)
    if node.op not in LINEAR:
        raise Declined(f"{node.op} is no linear operator", node)
    if weight is None or weight.dtype is not DType.FLOAT:
        raise Declined("its weight is not a float32 constant", node)
    bias_value = node.input(2)
    bias = None if bias_value is None else bias_value.constant
    if bias_value is not None and (bias is None or bias.dtype is not DType.FLOAT):
        raise Declined("its bias is not constant", node)
    array = weight.array()
    if array.size == 0 or not np.isfinite(array).all():
        raise Declined("its weight is empty or not finite", node)
    axis, groups = 0, 1
    if node.op == "Conv":
        if array.ndim not in (3, 4):
            raise Declined(f"a convolution over {array.ndim - 2} axes", node)
        groups = int(attr(node, "group", 1))
    elif array.ndim != 2:
        raise Declined(f"its weight has {array.ndim} axes", node)
    elif node.op == "MatMul":
        axis = 1
    else:
        if attr(node, "alpha", 1.0) != 1.0 or attr(node, "transA", 0):
            raise Declined("a factor or a transposed input", node)
        if bias is not None and attr(node, "beta", 1.0) != 1.0:
            raise Declined("a factor on its bias", node)
        axis = 0 if attr(node, "transB", 0) else 1
    channels = array.shape[axis]
    values = None if bias is None else bias.array().reshape(-1)
    if bias is not None and not _is_per_channel(bias.shape, channels):
        raise Declined("its bias is not one number a channel", node)
    addition = _addition(node, channels) if node.op == "MatMul" else None
    if addition is not None:
        constant = addition[0].constant(addition[1])
        values = None if constant is None else constant.array().reshape(-1)
    spread = None if values is None else np.broadcast_to(values, (channels,))
    return Linear(node, array, spread, axis, groups, addition)


def _is_per_channel(shape: Sequence[int], channels: int) -> bool:
    """One number for all channels or one for each, along the last axis: a column of a Gemm's C is one a row."""
    return not shape or (shape[-1] in (1, channels) and all(size == 1 for size in shape[:-1]))


def _addition(node: Node, channels: int) -> tuple[Node, int] | None:
    """The Add of one float32 constant a channel that alone reads a product."""
    if not node.output.has_one_use:
        return None
    user = node.output.uses[0].node
    if user.op != "Add" or user.graph is not node.graph:
        return None
    slot = 1 if user.inputs[0] is node.output else 0
    constant = user.constant(slot)
    if constant is None or constant.dtype is not DType.FLOAT or constant.shape != (channels,):
        return None
    return user, slot


def _some(rows: Array, count: int, rng: np.random.Generator) -> Array:
    if len(rows) <= count:
        return rows
    return rows[rng.choice(len(rows), count, replace=False)]


def _conv_patches(linear: Linear, x: Array, rows: int, rng: np.random.Generator) -> Array:
    node, kernel = linear.node, linear.weight.shape[2:]
    rank = len(kernel)
    strides, dilations = (_ints(node, name, rank) for name in ("strides", "dilations"))
    before, after = conv_pads(node, x.shape[2:], kernel, strides, dilations)
    padded = np.pad(x, ((0, 0), (0, 0), *zip(before, after)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    counts = [max(0, (n - span) // s + 1) for n, span, s in zip(padded.shape[2:], spans, strides)]
    total = len(x) * int(np.prod(counts))
    picked = np.arange(total) if total <= rows else np.sort(rng.choice(total, rows, replace=False))
    at = np.unravel_index(picked, (len(x), *counts))
    index: list[Any] = [at[0].reshape(-1, *(1,) * (rank + 1)), np.arange(x.shape[1]).reshape(1, -1, *(1,) * rank)]
    for i in range(rank):
        shape = [1] * (rank + 2)
        shape[2 + i] = kernel[i]
        start = (at[1 + i] * strides[i]).reshape(-1, *(1,) * (rank + 1))
        index.append(start + (np.arange(kernel[i]) * dilations[i]).reshape(shape))
    patches = padded[tuple(index)].reshape(len(picked), linear.groups, linear.depth)
    return np.ascontiguousarray(patches.transpose(1, 0, 2))


def conv_pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The padding before and after each axis of an image, `auto_pad` resolved (ONNX Conv)."""
    rank, mode = len(kernel), str(attr(node, "auto_pad", "NOTSET"))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for n, k, s, d in zip(sizes, kernel, strides, dilations):
            total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            small, large = total // 2, total - total // 2
            before.append(small if mode == "SAME_UPPER" else large)
            after.append(large if mode == "SAME_UPPER" else small)
        return before, after
    pads = [0] * 2 * rank if mode == "VALID" else list(attr(node, "pads", None) or [0] * 2 * rank)
    return pads[:rank], pads[rank:]


def _ints(node: Node, name: str, rank: int) -> list[int]:
    return [int(v) for v in attr(node, name, None) or [1] * rank]


def is_float32(value: Value | None) -> bool:
    """A tensor of float32."""
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype is DType.FLOAT
