"""What a layer reads and makes, as rows of a regression: patches of its input, and its outputs, at sampled places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...analysis.channels import Linear
from ...ir import Node
from ...ops import attr

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Positions of an output at which rows are taken: the batch index, then one for each spatial axis, each [R]."""

    index: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.index[0])


def sample_places(layer: Linear, out_shape: Sequence[int], count: int, rng: np.random.Generator) -> Places:
    """At most `count` positions of an output of `out_shape`, without repetition, in order."""
    free = _free(layer.node, out_shape)
    total = math.prod(free)
    chosen = np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))
    return Places(tuple(np.unravel_index(chosen, free)))


def _free(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    """The axes of an output that are not its channels."""
    return (shape[0], *shape[2:]) if _is_planar(node) else tuple(shape[:-1])


def _is_planar(node: Node) -> bool:
    return node.op in ("Conv", "BatchNormalization")


def outputs_at(layer: Linear, y: Array, places: Places) -> Array:
    """f[R, M]: the outputs at the places."""
    if _is_planar(layer.node):
        return np.asarray(y[(places.index[0], slice(None), *places.index[1:])])
    return np.asarray(y[places.index])


def inputs_at(layer: Linear, x: Array, places: Places) -> Array:
    """f[R, g, K]: for each place what each group of the layer multiplies with its weight, in the weight's order."""
    node = layer.node
    if node.op == "Conv":
        patches = _patches(node, x, places)  # [R, C, k...]
        return patches.reshape(len(places), layer.groups, -1)
    if node.op == "BatchNormalization":
        return np.asarray(x[(places.index[0], slice(None), *places.index[1:])])[:, :, None]
    return np.asarray(x[places.index])[:, None, :]


def _patches(node: Node, x: Array, places: Places) -> Array:
    weight = node.inputs[1]
    assert weight is not None and weight.constant is not None
    kernel = weight.constant.shape[2:]
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
    windows = windows[(slice(None), slice(None), *steps, *spread)]
    return np.ascontiguousarray(windows[(places.index[0], slice(None), *places.index[1:])])


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


def weight_matrix(layer: Linear, weight: Array) -> Array:
    """f[g, K, M / g]: the weight as `inputs_at` multiplies it."""
    if layer.node.op == "Conv":
        groups = weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
        return groups.transpose(0, 2, 1)
    matrix = weight if layer.out_axis == weight.ndim - 1 else weight.T
    return matrix[None]


def weight_tensor(layer: Linear, matrix: Array, shape: Sequence[int]) -> Array:
    """The inverse of `weight_matrix`."""
    if layer.node.op == "Conv":
        return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(shape)
    return np.ascontiguousarray(matrix[0] if layer.out_axis == len(shape) - 1 else matrix[0].T)


def can_regress(layer: Linear) -> bool:
    """Whether rows of a layer can be taken and its weight set: stored as floats, used once, in the root graph."""
    weight, node = layer.weight, layer.node
    if weight.constant is None or not weight.has_one_use or not weight.constant.dtype.is_float:
        return False
    if weight.constant.dtype.bits < 16 or node.graph is None or node.graph.owner is not None:
        return False
    if node.op == "Gemm":
        return bool(attr(node, "alpha", 1.0) == 1.0 and attr(node, "beta", 1.0) == 1.0)
    if node.op == "MatMul":
        return node.inputs[1] is weight and len(weight.constant.shape) == 2
    return node.op == "Conv"
