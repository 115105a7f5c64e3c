"""Convolutions and matrix products in one form: rows of weights [G, N/G, K] times patches of input [G, R, K]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...calibration import numbers
from ...errors import Declined
from ...ir import Array, Constant, DType, Node, TensorType, Value
from ...ops import attr
from .windows import Windows, draw_positions

LINEAR = frozenset(("Conv", "Gemm", "MatMul"))
PRODUCTS = frozenset(("MatMul", "Gemm"))
"""Operators of one matrix product each: inputs can be quantized dynamically, weights read in their stored layout."""
TRANSPOSED = "ConvTranspose"
"""Linear too; on integers in graphopt's Session alone, elsewhere only stored or simulated with few bits."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A node y = W x + b with constant W and constant or no b.

    constant: the weight in float32, read lazily: a model's weights may exceed memory. axis: of the output channels in
    the weight; of a transposed convolution those of one group, but axis 0 where a group has one input and one output
    channel. groups: of a convolution, else 1. addition: for a MatMul, the Add after it with its bias, and the bias's
    slot. rescaled: for a convolution whose weight belongs to x' = (x − d) / T, the pair T, d, each one number a channel
    of the input.
    """

    node: Node
    constant: Constant
    bias: Array | None
    axis: int
    groups: int
    addition: tuple[Node, int] | None = None
    rescaled: tuple[Array, Array] | None = None

    @property
    def alone(self) -> Linear:
        """A copy whose node belongs to no graph, so that it can be pickled."""
        addition = None if self.addition is None else (Node(self.addition[0].op), self.addition[1])
        return replace(self, node=Node(self.node.op), addition=addition)

    @property
    def weight(self) -> Array:
        """The weight, f32, in its stored layout."""
        return self.constant.array()

    @property
    def stored_weight(self) -> Array:
        """The weight in the file's type: float16 where reading widens it to float32, else float32."""
        return (self.constant.half or self.constant).array()

    @property
    def takes_bias(self) -> bool:
        """Whether a bias per output channel costs nothing."""
        return self.node.op in ("Conv", "Gemm", TRANSPOSED) or self.addition is not None

    @property
    def is_scattered(self) -> bool:
        """The output channels span two axes: those of a transposed convolution in several groups."""
        return self.node.op == TRANSPOSED and self.groups > 1 and self.axis == 1

    @property
    def channels(self) -> int:
        """Output channels, N."""
        return int(self.constant.shape[self.axis]) * (self.groups if self.is_scattered else 1)

    @property
    def depth(self) -> int:
        """Length of the dot product of one output element, K."""
        return int(self.constant.size // self.channels)

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a group: onnxruntime multiplies these one by one, never in pairs."""
        return self.node.op == "Conv" and self.groups > 1 and self.constant.shape[:2] == (self.groups, 1)

    def rows(self) -> Array:
        """The weight as f32 [G, N/G, K], K in the order of `patches`."""
        return self.rows_of(self.weight)

    def rows_of(self, stored: Array) -> Array:
        """An array of the weight's shape as [G, N/G, K]."""
        if self.is_scattered:
            stored = scattered(stored, self.groups)
        return rows_of(stored, 0 if self.is_scattered else self.axis, self.groups)

    def stored(self, rows: Array) -> Array:
        """The inverse of `rows_of`; for a matrix also of rows [1, N, B] of another length."""
        shape = self.constant.shape
        if len(shape) == 2:
            shape = _with_depth(shape, self.axis, rows.shape[-1])
        if self.is_scattered:
            return scattered(rows.reshape(self.channels, -1, *shape[2:]), self.groups)
        return stored_rows(rows, shape, self.axis)

    @property
    def gathered(self) -> Linear:
        """A Conv with the rows of a scattered layer: output channels on axis 0 of its weight [N, C/G, …]."""
        weight = np.ascontiguousarray(scattered(self.weight, self.groups))
        return Linear(Node("Conv"), Constant.of(weight), self.bias, 0, self.groups)

    def patches(self, x: Array, rows: int, rng: np.random.Generator) -> Array:
        """At most `rows` of the input vectors that the weight multiplies, drawn at random: f32 [G, R, K]."""
        if self.rescaled is not None:
            shape = (-1, *(1,) * (x.ndim - 2))
            gain, lift = (part.reshape(shape) for part in self.rescaled)
            x = ((x - lift) / gain).astype(np.float32)
        if self.node.op == TRANSPOSED:
            windows = Windows.of(self.node, self.constant.shape[2:])
            sizes = (len(x), *windows.transposed_sizes(self.node, x.shape[2:]))
            patches = windows.transposed_patches(x, draw_positions(sizes, rows, rng))
            return np.ascontiguousarray(patches.reshape(len(patches), self.groups, self.depth).transpose(1, 0, 2))
        if self.node.op != "Conv":
            flat = x.reshape(-1, x.shape[-1])  # drawn unsorted: sums over rows run in the drawn order
            return (flat if len(flat) <= rows else flat[rng.choice(len(flat), rows, replace=False)])[None]
        windows = Windows.of(self.node, self.constant.shape[2:])
        padded = windows.pad(x)
        patches = windows.patches(padded, draw_positions(windows.output_sizes(padded), rows, rng))
        return np.ascontiguousarray(patches.reshape(len(patches), self.groups, self.depth).transpose(1, 0, 2))


def _with_depth(shape: tuple[int, ...], axis: int, depth: int) -> tuple[int, ...]:
    return (shape[0], depth) if axis == 0 else (depth, shape[1])


def rows_of(weight: Array, axis: int, groups: int) -> Array:
    """A weight with its output channels on `axis` as [G, N/G, K]."""
    front = np.moveaxis(weight, axis, 0)
    return front.reshape(groups, len(front) // groups, -1)


def stored_rows(rows: Array, shape: Sequence[int], axis: int) -> Array:
    """The inverse of `rows_of`: a weight of `shape`."""
    front = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    stored = np.moveaxis(rows.reshape(front), 0, axis)
    return contiguous(stored) if stored.ndim == 2 else np.ascontiguousarray(stored)


def scattered(weight: Array, groups: int) -> Array:
    """A weight [G · a, b, …] as [G · b, a, …]: that of a ConvTranspose [C, M/G, …] as that of a Conv, and back."""
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(-1, split.shape[1], *weight.shape[2:])


TILE = 128, 64
"""Rows and columns of a transposed tile: of 16 to 512 the fastest on matrices [2048, 8192]."""


def contiguous(matrix: Array) -> Array:
    """A matrix in row-major order; itself where it already is. A column-major matrix is copied tile by tile: numpy's
    own copy takes five times as long."""
    if matrix.flags.c_contiguous or matrix.shape[0] < TILE[0]:
        return np.ascontiguousarray(matrix)
    turned = np.empty(matrix.shape, matrix.dtype)
    for start in range(0, len(matrix), TILE[0]):
        columns = np.ascontiguousarray(matrix[start : start + TILE[0]].T)
        for k in range(0, matrix.shape[1], TILE[1]):
            turned[start : start + TILE[0], k : k + TILE[1]] = columns[k : k + TILE[1]].T
    return turned


def linear_of(node: Node) -> Linear:
    """The node as a linear map. Declined where it is not one, or cannot be quantized."""
    weight = node.constant(1)
    if node.op not in LINEAR and node.op != TRANSPOSED:
        raise Declined(f"{node.op} is no linear operator", node)
    if weight is None or weight.dtype is not DType.FLOAT:
        raise Declined("its weight is not a float32 constant", node)
    bias_value = node.input(2)
    bias = None if bias_value is None else bias_value.constant
    if bias_value is not None and (bias is None or bias.dtype is not DType.FLOAT):
        raise Declined("its bias is not constant", node)
    array = (weight.half or weight).array()
    if array.size == 0 or numbers(array) is not None:
        raise Declined("its weight is empty, or holds NaN, infinite or mask values", node)
    linear = Linear(node, weight, None, *_layout(node, array, bias is not None))
    values = None if bias is None else bias.array().reshape(-1)
    if bias is not None and not _is_per_channel(bias.shape, linear.channels):
        raise Declined("its bias is not one number a channel", node)
    addition = _addition(node, linear.channels) if node.op == "MatMul" else None
    if addition is not None:
        constant = addition[0].constant(addition[1])
        values = None if constant is None else constant.array().reshape(-1)
    if values is not None and numbers(values) is not None:
        raise Declined("its bias holds NaN, infinite or mask values", node)
    spread = None if values is None else np.broadcast_to(values, (linear.channels,))
    return replace(linear, bias=spread, addition=addition)


def _layout(node: Node, weight: Array, has_bias: bool) -> tuple[int, int]:
    """The axis of the output channels in the weight, and the groups."""
    if node.op == "Conv":
        if weight.ndim not in (3, 4, 5):
            raise Declined(f"a convolution over {weight.ndim - 2} axes", node)
        return 0, int(attr(node, "group", 1))
    if node.op == TRANSPOSED:
        if weight.ndim not in (3, 4):
            raise Declined(f"a transposed convolution over {weight.ndim - 2} axes", node)
        if attr(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attrs:
            raise Declined("a transposed convolution whose pads follow from sizes", node)
        groups = int(attr(node, "group", 1))
        return 0 if weight.shape[:2] == (groups, 1) else 1, groups
    if weight.ndim != 2:
        raise Declined(f"its weight has {weight.ndim} axes", node)
    if node.op == "MatMul":
        return 1, 1
    if attr(node, "alpha", 1.0) != 1.0 or attr(node, "transA", 0):
        raise Declined("a factor or a transposed input", node)
    if has_bias and attr(node, "beta", 1.0) != 1.0:
        raise Declined("a factor on its bias", node)
    return 0 if attr(node, "transB", 0) else 1, 1


def _is_per_channel(shape: Sequence[int], channels: int) -> bool:
    """One number for all channels, or one each along the last axis: a column C of a Gemm has one per row instead."""
    return not shape or (shape[-1] in (1, channels) and all(size == 1 for size in shape[:-1]))


def _addition(node: Node, channels: int) -> tuple[Node, int] | None:
    """The Add of a float32 constant per channel, a product's only reader, and the constant's slot; else None."""
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


def is_float32(value: Value | None) -> bool:
    """Whether the value is a float32 tensor."""
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype is DType.FLOAT
