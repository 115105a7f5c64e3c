"""Rows of a regression for one layer: patches of its input, its outputs, and its weight as the matrix between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...analysis.channels import WeightedLayer
from ...errors import Declined
from ...ir import Array
from ...ops import attr
from .linear import rows_of, stored_rows
from .weights import quantized_weight, shape_of
from .windows import Positions, Windows, draw_positions

_CHANNELS_FIRST = ("Conv", "ConvTranspose", "BatchNormalization")


def sample_positions(
    layer: WeightedLayer, out_shape: Sequence[int], count: int, rng: np.random.Generator
) -> Positions:  # fmt: skip
    """At most `count` positions of an output of `out_shape`, without repetition, in order."""
    channels_first = layer.node.op in _CHANNELS_FIRST
    return draw_positions((out_shape[0], *out_shape[2:]) if channels_first else out_shape[:-1], count, rng)


def check_same_sizes(layer: WeightedLayer, x: Array, out_shape: Sequence[int]) -> None:
    """Declined where the output for an input x differs in size from `out_shape`, channels aside."""
    node, given = layer.node, x.shape[:-1]
    wanted: Sequence[int] = out_shape[:-1]
    if node.op in _CHANNELS_FIRST:
        given, wanted = (x.shape[0], *x.shape[2:]), (out_shape[0], *out_shape[2:])
    if node.op in ("Conv", "ConvTranspose"):
        windows = Windows.of(node, shape_of(layer)[2:])
        sizes = windows.sizes_of(given[1:]) if node.op == "Conv" else windows.transposed_sizes(node, given[1:])
        given = (given[0], *sizes)
    if tuple(given) != tuple(wanted):
        raise Declined("its input has other sizes than in the original: data or chance decide them", node)


def outputs_at(layer: WeightedLayer, y: Array, positions: Positions) -> Array:
    """f[R, M]: the outputs at `positions`."""
    channels_first = layer.node.op in _CHANNELS_FIRST
    return np.asarray(y[positions.channels_first if channels_first else positions.index])


def inputs_at(layer: WeightedLayer, x: Array, positions: Positions) -> Array:
    """f[R, g, K]: for each output position, each group's input elements in the order of its weight."""
    node = layer.node
    if node.op == "BatchNormalization":
        return np.asarray(x[positions.channels_first])[:, :, None]
    if node.op not in _CHANNELS_FIRST:
        return np.asarray(x[positions.index])[:, None, :]
    windows = Windows.of(node, shape_of(layer)[2:])
    if node.op == "Conv":
        patches = windows.patches(windows.pad(x), positions)  # [R, C, k...]
    else:
        patches = windows.transposed_patches(x, positions)
    return patches.reshape(len(positions), layer.groups, -1)


def weight_matrix(layer: WeightedLayer, weight: Array) -> Array:
    """f[g, K, M / g]: the weight as the right factor of `inputs_at`."""
    if layer.node.op == "ConvTranspose":  # [C, M / g, k...]
        parts = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1)
        return parts.transpose(0, 1, 3, 2).reshape(layer.groups, -1, weight.shape[1])
    return rows_of(weight, layer.out_axis, layer.groups).transpose(0, 2, 1)


def weight_tensor(layer: WeightedLayer, matrix: Array, shape: Sequence[int]) -> Array:
    """The inverse of `weight_matrix`."""
    if layer.node.op == "ConvTranspose":
        parts = matrix.reshape(layer.groups, shape[0] // layer.groups, -1, shape[1])
        return np.ascontiguousarray(parts.transpose(0, 1, 3, 2)).reshape(shape)
    return stored_rows(matrix.transpose(0, 2, 1), shape, layer.out_axis)


def check_readable(layer: WeightedLayer) -> None:
    """Declined where the layer's inputs and outputs cannot be sampled as rows."""
    node = layer.node
    if node.graph is None or node.graph.owner is not None:
        raise Declined("it is in a nested graph, which runs as the data decide", node)
    if node.op == "Gemm" and (attr(node, "alpha", 1.0) != 1.0 or attr(node, "beta", 1.0) != 1.0):
        raise Declined("it scales its product", node)
    if node.op == "MatMul" and (node.inputs[1] is not layer.weight or len(shape_of(layer)) != 2):
        raise Declined("its weight is on the left, or a stack of matrices", node)
    if node.op == "ConvTranspose" and (attr(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attrs):
        raise Declined("its padding follows from its size", node)
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        raise Declined("its activations are integers, or it has a state", node)
    if not shape_of(layer):
        raise Declined("the size of its weight is not known", node)
    data = node.inputs[0]
    if data is None or data.constant is not None:
        raise Declined("its input is a constant", node)


def check_refittable(layer: WeightedLayer) -> None:
    """Declined where the layer's rows cannot be sampled, or its weight cannot be replaced."""
    check_readable(layer)
    constant = layer.weight.constant
    if constant is None:
        if quantized_weight(layer) is None:
            raise Declined("its weight is computed from others, or shared", layer.node)
    elif not layer.weight.has_one_use:
        raise Declined("its weight is shared", layer.node)
    elif not constant.dtype.is_float or constant.dtype.bits < 16:
        raise Declined("its weight is stored as integers", layer.node)
