"""Output shapes of operations for known input shapes, as ONNX's operators define them; a function for each operation.

Each raises Declined for shapes that do not fit; `Window` raises ValueError for invalid attributes.
"""

from __future__ import annotations

import math
from math import prod

import numpy as np

from ...errors import Declined
from ...ir import Value
from ...kernels.tensors.windows import Window
from ...ops import resolve_pads
from ..lower import operations as op
from ..lower.computed_shapes import broadcast, computed_sizes, reshaped
from ..lower.decoders.operations import AppendCache, BlockedMatMul, CachedAttention
from ..lower.floats.operations import Blocks, Expand, FloatMean, FloatResize, InstanceNorm, Pad, Slice
from ..lower.traits import Operation, Shape

Shapes = tuple[Shape, ...]


def first_shape(operation: Operation, shapes: Shapes) -> Shape:
    """The shape of the first input."""
    return shapes[0]


def operation_window(operation: op.Conv | op.DynamicConv | op.Pool, spatial: Shape) -> Window:
    """The window of an operation over these spatial sizes; a single spatial axis counts as width."""
    if isinstance(operation, op.Pool):
        kernel, ceil = operation.kernel or spatial, operation.ceil_mode
    else:
        kernel, ceil = operation.weights.shape[2:], False
    rank = len(kernel)
    if len(spatial) != rank:
        raise Declined(f"a window of {rank} axes over {len(spatial)}")
    strides, dilations = operation.strides or (1,) * rank, operation.dilations or (1,) * rank
    pads = resolve_pads(operation.auto_pad, operation.pads, spatial, kernel, strides, dilations)
    padded = tuple(size + pads[axis] + pads[axis + rank] for axis, size in enumerate(spatial))
    kernel, strides = _within(operation, padded, kernel, strides, dilations)
    if rank == 1:
        kernel, strides, dilations = (1, *kernel), (1, *strides), (1, *dilations)
        pads = (0, pads[0], 0, pads[1])
    return Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]), ceil,
    )  # fmt: skip


def _within(
    operation: op.Conv | op.DynamicConv | op.Pool, padded: Shape, kernel: Shape, strides: Shape, dilations: Shape
) -> tuple[Shape, Shape]:
    """Kernel and strides without taps that lie beyond the padded image at each position of the window.

    onnxruntime's division rounds towards zero: a pool kernel larger than the image by less than a stride has one
    position.
    """
    beyond = [d * (k - 1) + 1 - size for size, k, d in zip(padded, kernel, dilations)]
    if max(beyond) <= 0:
        return kernel, strides
    if not isinstance(operation, op.Pool) or any(b >= s for b, s in zip(beyond, strides)):
        raise Declined(f"a kernel of {kernel} over {padded} elements with their padding")
    if not operation.ceil_mode and getattr(operation, "count_include_pad", False):
        raise Declined("a mean over more than the padded image, which operator sets divide by different counts")
    fits = [beyond <= 0 for beyond in beyond]
    return (
        tuple(k if f else (size - 1) // d + 1 for f, size, k, d in zip(fits, padded, kernel, dilations)),
        tuple(s if f else size for f, size, s in zip(fits, padded, strides)),
    )


def _windowed(operation: op.Conv | op.DynamicConv | op.Pool, x: Shape, channels: int) -> Shape:
    window = operation_window(operation, x[2:])
    spatial = x[2:] if len(x) == 4 else (1, *x[2:])
    sizes = tuple(window.output_size(axis, size) for axis, size in enumerate(spatial))
    return (x[0], channels, *sizes[4 - len(x) :])


def conv_shape(operation: op.Conv | op.DynamicConv, shapes: Shapes) -> Shape:
    """[N, O, spatial axes]."""
    x = shapes[0]
    if len(x) != operation.weights.ndim or x[1] != operation.weights.shape[1] * operation.groups:
        raise Declined(f"Conv of {x} with weights {operation.weights.shape}")
    return _windowed(operation, x, operation.weights.shape[0])


def conv_transpose_shape(operation: op.ConvTranspose, shapes: Shapes) -> Shape:
    """[N, O, spatial axes times the strides plus `more`]."""
    x = shapes[0]
    if len(x) != 4 or x[1] != operation.weights.shape[1]:
        raise Declined(f"ConvTranspose of {x} with weights {operation.weights.shape}")
    sizes = tuple(size * by + more for size, by, more in zip(x[2:], operation.strides, operation.more))
    if min(sizes) <= 0 or 0 in x:
        raise Declined(f"ConvTranspose of {x} to {sizes}")
    return (x[0], operation.channels, *sizes)


def max_pool_shape(operation: op.MaxPool, shapes: Shapes) -> Shape:
    """[N, C, spatial axes]."""
    return _windowed(operation, shapes[0], shapes[0][1])


def mean_pool_shape(operation: op.AveragePool | op.FloatPool, shapes: Shapes) -> Shape:
    """[N, C, spatial axes], which are 1 for a global pool."""
    if operation.kernel:
        return _windowed(operation, shapes[0], shapes[0][1])
    return (*shapes[0][:2], *(1,) * (len(shapes[0]) - 2))


def lrn_shape(operation: op.Lrn, shapes: Shapes) -> Shape:
    """The shape of the input, after the pools before and behind."""
    if len(shapes[0]) not in (3, 4):
        raise Declined(f"LRN of {len(shapes[0])} axes")
    shape = shapes[0]
    for pool in (operation.pool_before, operation.pool):
        shape = shape if pool is None else max_pool_shape(pool, (shape,))
    return shape


def matmul_shape(operation: op.MatMul | op.DynamicMatMul, shapes: Shapes) -> Shape:
    """[..., N]."""
    x = shapes[0]
    if not x or x[-1] != operation.weights.shape[0]:
        raise Declined(f"MatMul of {x} with weights {operation.weights.shape}")
    return (*x[:-1], operation.weights.shape[1])


def blocked_matmul_shape(operation: BlockedMatMul, shapes: Shapes) -> Shape:
    """[..., N]."""
    x = shapes[0]
    if not x or x[-1] != operation.sizes[0]:
        raise Declined(f"MatMul of {x} with weights {operation.sizes}")
    if operation.last and prod(x[:-2]) == 1:
        x = (*x[:-2], 1, x[-1])
    return (*x[:-1], operation.sizes[1])


def appended_shape(operation: AppendCache, shapes: Shapes) -> Shape:
    """[batch, heads, past + tokens, size]; a row of codes has four more bytes, its scale."""
    new, past = shapes
    size = past[3] - 4 * operation.coded
    if past[0] != new[0] or past[1] != operation.heads or new[2] != past[1] * size:
        raise Declined(f"rows {new} behind a cache {past}")
    return (*past[:2], past[2] + new[1], past[3])


def attention_shape(operation: CachedAttention, shapes: Shapes) -> Shape:
    """[batch, tokens, heads · groups · size of a value]."""
    q, keys, values, *mask = shapes
    heads = operation.heads * operation.groups
    size, width = (cache[3] - 4 * operation.coded for cache in (keys, values))
    if q[0] != keys[0] or q[2] != heads * size or values[:3] != keys[:3]:
        raise Declined(f"attention of {q} over {keys} and {values}")
    if mask and (mask[0][-1:] != keys[2:3] or broadcast(mask[0], (q[0], heads, q[1], keys[2]))[3:] != keys[2:3]):
        raise Declined(f"a mask {mask[0]} for {keys[2]} keys")
    return (*q[:2], heads * width)


def activation_matmul_shape(operation: op.FloatMatMul | op.ActivationMatMul, shapes: Shapes) -> Shape:
    """[batch axes, M, N]."""
    a, b = shapes
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise Declined(f"MatMul of {a} and {b}")
    return (*broadcast(a[:-2], b[:-2]), a[-2], b[-1])


def binary_shape(operation: op.Binary, shapes: Shapes) -> Shape:
    """As numpy broadcasts."""
    return broadcast(*shapes)


def float_binary_shape(operation: op.FloatBinary, shapes: Shapes) -> Shape:
    """As numpy broadcasts, the constant included."""
    return broadcast(*shapes, *(() if operation.constant is None else (operation.constant.shape,)))


def concat_shape(operation: op.Concat, shapes: Shapes) -> Shape:
    """The sum of the inputs' sizes along the axis; the other sizes are equal."""
    axis = operation.axis % len(shapes[0])
    if any(s[:axis] != shapes[0][:axis] or s[axis + 1 :] != shapes[0][axis + 1 :] for s in shapes):
        raise Declined(f"Concat of {shapes}")
    return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])


def side_by_side_shape(operation: op.ChannelQuantize, shapes: Shapes) -> Shape:
    """The sum of the inputs' channels; the other sizes are equal."""
    axis = operation.axis
    rests = {(len(s), s[:axis], s[axis:][1:]) for s in shapes}
    if len(rests) != 1 or tuple(s[axis] for s in shapes) != operation.sizes:
        raise Declined(f"channels {operation.sizes} of {shapes}")
    return (*shapes[0][:axis], sum(operation.sizes), *shapes[0][axis:][1:])


def resize_shape(operation: op.Resize | FloatResize, shapes: Shapes) -> Shape:
    """Sizes as given, or times the scales and rounded down."""
    x, sizes = shapes[0], operation.sizes
    if isinstance(sizes, Value):
        sizes = computed_sizes(sizes, dict(zip(operation.inputs[1:], shapes[1:])))
    scaled = (math.floor(np.float32(size) * np.float32(by)) for size, by in zip(x[2:], operation.scales))
    sizes = sizes or (*x[:2], *scaled)
    if len(sizes) != len(x) or sizes[:2] != x[:2] or 0 in x:
        raise Declined(f"Resize of {x} to {sizes}")
    return sizes


def permutation_of(operation: op.Transpose, rank: int) -> Shape:
    """The permutation of a Transpose; () in the operation means the identity."""
    if operation.permutation is None:
        return tuple(reversed(range(rank)))
    return operation.permutation or tuple(range(rank))


def move_shape(operation: op.Transpose | op.Reshape, shapes: Shapes) -> Shape:
    """The shape of the first input after a move; the other inputs' shapes determine a computed target."""
    x = shapes[0]
    if isinstance(operation, op.Transpose):
        return tuple(x[axis] for axis in permutation_of(operation, len(x)))
    target = operation.target
    if isinstance(target, Value):
        target = computed_sizes(target, dict(zip(operation.inputs[1:], shapes[1:])))
    if operation.kind == "flatten":
        axis = target[0] + len(x) if target[0] < 0 else target[0]
        return prod(x[:axis]), prod(x[axis:])
    if operation.kind == "squeeze":
        axes = {a % len(x) for a in target} or {a for a, size in enumerate(x) if size == 1}
        return tuple(size for a, size in enumerate(x) if a not in axes)
    if operation.kind == "unsqueeze":
        rank = len(x) + len(target)
        axes = {a % rank for a in target}
        rest = iter(x)
        return tuple(1 if a in axes else next(rest) for a in range(rank))
    return reshaped(target, x, allow_zero=operation.allow_zero)


def channel_table_shape(operation: op.ChannelTable, shapes: Shapes) -> Shape:
    """The shape of the input after the moves."""
    shape, known = shapes[0], dict(zip(operation.inputs[1:], shapes[1:]))
    if operation.tables is not None and len(operation.tables) > 1 and shape[operation.axis] != len(operation.tables):
        raise Declined(f"{len(operation.tables)} tables for {shape}")
    for move in operation.moves:
        shape = move_shape(move, (shape, *(known[value] for value in move.inputs[1:])))
    return shape


def blocks_shape(operation: Blocks, shapes: Shapes) -> Shape:
    """[N, C b², H / b, W / b] of blocks that become channels, [N, C / b², H b, W b] of channels that become blocks."""
    x, b = shapes[0], operation.block
    if len(x) != 4 or (x[1] % (b * b) if operation.kind != "space" else x[2] % b or x[3] % b):
        raise Declined(f"blocks of {b} × {b} pixels of {x}")
    if operation.kind == "space":
        return x[0], x[1] * b * b, x[2] // b, x[3] // b
    return x[0], x[1] // (b * b), x[2] * b, x[3] * b


def slice_shape(operation: Slice, shapes: Shapes) -> Shape:
    """The sizes after slicing."""
    sizes = list(shapes[0])
    for axis, begin, end, step in cuts_of(operation, shapes):
        sizes[axis] = max(0, -(-(end - begin) // step))
    if operation.dropped:
        del sizes[operation.cuts[0][0] % len(sizes)]
    return tuple(sizes)


def cuts_of(operation: Slice, shapes: Shapes) -> list[tuple[int, int, int, int]]:
    """Axis, begin, end and step of each cut within the first shape, as ONNX's Slice clips them."""
    cuts, x, others = [], shapes[0], dict(zip(operation.inputs[1:], shapes[1:]))
    for i, cut in enumerate(operation.cuts):
        axis, begin, end, step = (
            computed_sizes(operation.computed[i, j], others)[0] if (i, j) in operation.computed else number
            for j, number in enumerate(cut)
        )
        if not -len(x) <= axis < len(x):
            raise Declined(f"axis {axis} of {x}")
        size = x[axis]
        first, last = (min(max(at + size if at < 0 else at, 0), size) for at in (begin, end))
        if operation.dropped and last - first != 1:
            raise Declined(f"index {begin} of {size} elements")
        cuts.append((axis % len(x), first, max(first, last), step))
    return cuts


def expand_shape(operation: Expand, shapes: Shapes) -> Shape:
    """The input's shape broadcast with the target."""
    target = operation.target
    if isinstance(target, Value):
        target = computed_sizes(target, dict(zip(operation.inputs[1:], shapes[1:])))
    return broadcast(shapes[0], tuple(1 if size == -1 else size for size in target))


def mean_shape(operation: FloatMean, shapes: Shapes) -> Shape:
    """The reduced axes as 1 where `keep`, else left out."""
    axes = mean_axes(operation, len(shapes[0]))
    if operation.keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shapes[0]))
    return tuple(size for axis, size in enumerate(shapes[0]) if axis not in axes)


def mean_axes(operation: FloatMean, rank: int) -> set[int]:
    """The axes of the mean, counted from the front."""
    if any(not -rank <= axis < rank for axis in operation.axes):
        raise Declined(f"a mean over axes {operation.axes} of {rank}")
    return {axis % rank for axis in operation.axes} or {*range(rank)}


def pad_shape(operation: Pad, shapes: Shapes) -> Shape:
    """The sizes with the pads."""
    if len(shapes[0]) != len(operation.pads):
        raise Declined(f"Pad of {len(operation.pads)} axes for {shapes[0]}")
    return tuple(before + size + behind for size, (before, behind) in zip(shapes[0], operation.pads))


def instance_norm_shape(operation: InstanceNorm, shapes: Shapes) -> Shape:
    """The shape of the input; Declined where scale or bias do not match its channels."""
    if len(shapes[0]) < 3 or shapes[0][1] != len(operation.scale):
        raise Declined(f"InstanceNormalization of {shapes[0]} by {len(operation.scale)} factors")
    return shapes[0]
