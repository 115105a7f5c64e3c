"""What a layer reads and makes, as rows of a regression: patches of its input, and its outputs, at sampled places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...analysis.channels import WeightedLayer
from ...ir import Array, Node
from ...ops import attr
from .weights import coded, shape_of


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Positions of an output at which rows are taken: the batch index, then one for each spatial axis, each [R]."""

    index: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.index[0])

    @property
    def planar(self) -> tuple[Any, ...]:
        """The index with all channels behind the batch, as images have them."""
        batch, *space = self.index
        return (batch, slice(None), *space)


def sample_places(layer: WeightedLayer, out_shape: Sequence[int], count: int, rng: np.random.Generator) -> Places:
    """At most `count` positions of an output of `out_shape`, without repetition, in order."""
    free = _free(layer.node, out_shape)
    total = math.prod(free)
    chosen = np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))
    return Places(tuple(np.unravel_index(chosen, free)))


def _free(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    """The axes of an output that are not its channels."""
    return (shape[0], *shape[2:]) if _is_planar(node) else tuple(shape[:-1])


def _is_planar(node: Node) -> bool:
    return node.op in ("Conv", "ConvTranspose", "BatchNormalization")


def outputs_at(layer: WeightedLayer, y: Array, places: Places) -> Array:
    """f[R, M]: the outputs at the places."""
    if _is_planar(layer.node):
        return np.asarray(y[places.planar])
    return np.asarray(y[places.index])


def inputs_at(layer: WeightedLayer, x: Array, places: Places) -> Array:
    """f[R, g, K]: for each place what each group of the layer multiplies with its weight, in the weight's order."""
    node = layer.node
    if node.op == "Conv":
        patches = _patches(node, shape_of(layer)[2:], x, places)  # [R, C, k...]
        return patches.reshape(len(places), layer.groups, -1)
    if node.op == "ConvTranspose":
        return _spread(node, shape_of(layer)[2:], x, places).reshape(len(places), layer.groups, -1)
    if node.op == "BatchNormalization":
        return np.asarray(x[places.planar])[:, :, None]
    return np.asarray(x[places.index])[:, None, :]


def _spread(node: Node, kernel: Sequence[int], x: Array, places: Places) -> Array:
    """[R, C, k...]: for each place of a transposed convolution's output what each position of the kernel meets there:
    input q with q stride + k dilation = p + pad, zero where there is none."""
    rank = len(kernel)
    strides = attr(node, "strides") or (1,) * rank
    dilations = attr(node, "dilations") or (1,) * rank
    pads = attr(node, "pads") or (0,) * (2 * rank)
    inside = np.ones((len(places), *kernel), bool)
    index: list[Any] = [places.index[0].reshape(-1, *(1,) * rank)]
    for axis in range(rank):
        steps = np.arange(kernel[axis]) * dilations[axis]
        reach = places.index[axis + 1][:, None] + pads[axis] - steps  # [R, k]
        source, rest = np.divmod(reach, strides[axis])
        shape = [len(places), *(kernel[axis] if k == axis else 1 for k in range(rank))]
        inside &= ((rest == 0) & (source >= 0) & (source < x.shape[2 + axis])).reshape(shape)
        index.append(np.clip(source, 0, x.shape[2 + axis] - 1).reshape(shape))
    found = np.moveaxis(x, 1, -1)[tuple(index)]  # [R, k..., C]
    return np.ascontiguousarray(np.moveaxis(np.where(inside[..., None], found, 0), -1, 1))


def _patches(node: Node, kernel: Sequence[int], x: Array, places: Places) -> Array:
    rank = len(kernel)
    strides = attr(node, "strides") or (1,) * rank
    dilations = attr(node, "dilations") or (1,) * rank
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel)]
    before, after = _padding(node, x.shape[2:], reach, strides)
    if any(before) or any(after):
        x = np.pad(x, ((0, 0), (0, 0), *zip(before, after)))
    windows = sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))
    steps: tuple[Any, ...] = tuple(slice(None, None, step) for step in strides)
    spread: tuple[Any, ...] = tuple(slice(None, None, step) for step in dilations)
    every: tuple[Any, ...] = (slice(None), slice(None), *steps, *spread)
    windows = windows[every]
    return np.ascontiguousarray(windows[places.planar])


def _padding(
    node: Node, sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    rank = len(sizes)
    automatic = attr(node, "auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(sizes, strides, reach)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (small, large) if automatic == "SAME_UPPER" else (large, small)
    pads = list(attr(node, "pads") or (0,) * (2 * rank)) if automatic == "NOTSET" else [0] * (2 * rank)
    return pads[:rank], pads[rank:]


def weight_matrix(layer: WeightedLayer, weight: Array) -> Array:
    """f[g, K, M / g]: the weight as `inputs_at` multiplies it."""
    if layer.node.op == "Conv":
        groups = weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
        return groups.transpose(0, 2, 1)
    if layer.node.op == "ConvTranspose":  # [C, M / g, k...]
        parts = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1)
        return parts.transpose(0, 1, 3, 2).reshape(layer.groups, -1, weight.shape[1])
    matrix = weight if layer.out_axis == weight.ndim - 1 else weight.T
    return matrix[None]


def weight_tensor(layer: WeightedLayer, matrix: Array, shape: Sequence[int]) -> Array:
    """The inverse of `weight_matrix`."""
    if layer.node.op == "Conv":
        return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(shape)
    if layer.node.op == "ConvTranspose":
        parts = matrix.reshape(layer.groups, shape[0] // layer.groups, -1, shape[1])
        return np.ascontiguousarray(parts.transpose(0, 1, 3, 2)).reshape(shape)
    return np.ascontiguousarray(matrix[0] if layer.out_axis == len(shape) - 1 else matrix[0].T)


def cannot_read(layer: WeightedLayer) -> str:
    """Why rows of a layer cannot be taken; "" where they can."""
    node = layer.node
    if node.graph is None or node.graph.owner is not None:
        return "it is in a nested graph, which runs as the data decide"
    if node.op == "Gemm" and (attr(node, "alpha", 1.0) != 1.0 or attr(node, "beta", 1.0) != 1.0):
        return "it scales its product"
    if node.op == "MatMul" and (node.inputs[1] is not layer.weight or len(shape_of(layer)) != 2):
        return "its weight is on the left, or a stack of matrices"
    if node.op == "ConvTranspose" and (attr(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attrs):
        return "its padding follows from its size"
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return "its activations are integers, or it has a state"
    return "" if shape_of(layer) else "the size of its weight is not known"


def cannot_regress(layer: WeightedLayer) -> str:
    """Why a layer cannot be refitted; "" where rows of it can be taken and its weight can be set."""
    constant = layer.weight.constant
    if constant is None:
        stored = "" if coded(layer) is not None else "its weight is computed from others, or shared"
    elif not layer.weight.has_one_use:
        stored = "its weight is shared"
    else:
        stored = "" if constant.dtype.is_float and constant.dtype.bits >= 16 else "its weight is stored as integers"
    return cannot_read(layer) or stored
