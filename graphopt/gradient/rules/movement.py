"""Operators that only move elements: the cotangent moves back, and is summed where an element was copied."""

from __future__ import annotations

import math

import numpy as np

from ...errors import Declined
from ..call import Call, Gradients, Rule
from ..tensor import Tensor
from .convolution import Window, taps
from .pooling import scattered


def reshaped(call: Call) -> Gradients:
    """y = x in another shape: dx = g in the shape of x"""
    return {0: call.g.reshape(call.x.shape)}


def transpose(call: Call) -> Gradients:
    """y = x with permuted axes: dx = g with the inverse permutation"""
    perm = call.attr("perm") or tuple(reversed(range(call.x.rank)))
    return {0: call.g.transpose([int(i) for i in np.argsort(perm)])}


def expand(call: Call) -> Gradients:
    """y = x broadcast: dx = Σ g over the broadcast axes"""
    return {0: call.g.reduced_to(call.x)}


def tile(call: Call) -> Gradients:
    """y = x repeated: dx = Σ g over the repeats, seen as [r₀, n₀, r₁, n₁, …]"""
    x, w = call.x, call.writer
    n = x.rank
    known = call.node.constant(1)
    repeats: list[int | Tensor]
    if known is not None:
        repeats = [int(r) for r in known.array()]
    else:
        repeats = [call.input(1).slice([i], [i + 1]) for i in range(n)]
    shape = [part for pair in zip(repeats, x.sizes()) for part in pair]
    return {0: call.g.reshape(w.ints(shape)).sum([2 * i for i in range(n)]) if n else call.g}


def concat(call: Call) -> Gradients:
    """y = [x₀, x₁, …] along an axis: dxᵢ is the part of g"""
    axis = call.axis(rank=call.g.rank)
    found: Gradients = {}
    start: int | Tensor = 0
    for slot in range(len(call.node.inputs)):
        end = start + call.input(slot).size(axis)
        if slot in call.wanted:
            found[slot] = call.g.slice([start], [end], [axis])
        start = end
    return found


def split(call: Call) -> Gradients:
    """[y₀, y₁, …] = x along an axis: dx = [g₀, g₁, …], 0 for a part that nothing depends on"""
    axis = call.axis(default=0)
    parts = [
        Tensor(call.writer, value).zeros() if g is None else g for value, g in zip(call.node.outputs, call.cotangents)
    ]
    return {0: parts[0] if len(parts) == 1 else call.writer.node("Concat", *parts, axis=axis)}


def by_positions(call: Call) -> Gradients:
    """y takes its elements from x as the same operator on the positions 0, 1, 2, … says: dx = Σ g at these positions"""
    x, w, node = call.x, call.writer, call.node
    count = w.constant(np.int64(x.type.size)) if x.type.size is not None else x.Size()
    positions = w.node("Range", w.constant(np.int64(0)), count, w.constant(np.int64(1))).reshape(x.shape)
    places = w.nodes(node.op, positions, *node.inputs[1:], outputs=len(node.outputs), **node.attrs)[0]
    return {0: scattered(x, places, call.g)}


def slice_(call: Call) -> Gradients:
    """y = x[start:end:step]: dx is g with zeros around it; for other steps than 1, Σ g at the positions"""
    x = call.x
    constants = [call.node.constant(slot) for slot in range(1, len(call.node.inputs))]
    if any(c is None for c in constants) or x.type.sizes is None:
        return by_positions(call)
    arrays = [[int(v) for v in c.array()] for c in constants if c is not None]
    axes = [a % x.rank for a in arrays[2]] if len(arrays) > 2 else list(range(len(arrays[0])))
    if len(arrays) > 3 and any(step != 1 for step in arrays[3]):
        return by_positions(call)
    begins, ends = [0] * x.rank, [0] * x.rank
    for start, end, axis in zip(arrays[0], arrays[1], axes):
        size = x.type.sizes[axis]
        first, last, _ = slice(start, end).indices(size)
        begins[axis], ends[axis] = first, size - max(first, last)
    return {0: call.g.pad([*begins, *ends])}


def pad(call: Call) -> Gradients:
    """y = x with elements around it: dx is the middle of g; where they are copies of x, Σ g at the positions"""
    if call.attr("mode", "constant") != "constant":
        return by_positions(call)
    x, found = call.x, {}
    if call.node.constant(1) is None:
        middle = call.writer.node("Pad", call.g, -call.input(1), None, call.optional(3))
        middle.value.type = x.value.type  # its sizes are those of x, which inference cannot derive
    else:
        amounts = [int(v) for v in call.number(1, "the padding")]
        axes = call.axes(3)
        over = list(range(x.rank)) if axes is None else axes
        pads = [0] * 2 * x.rank
        for i, axis in enumerate(over):
            pads[axis], pads[x.rank + axis] = -amounts[i], -amounts[i + len(over)]
        middle = call.g.pad(pads)
    if 0 in call.wanted:
        found[0] = middle
    if 2 in call.wanted:
        found[2] = (call.g.sum() - middle.sum()).reshape(call.input(2).shape)
    return found


def depth_to_space(call: Call) -> Gradients:
    """y = x with channels moved into b × b blocks of pixels: dx = g moved back"""
    x, block = call.x, int(call.attr("blocksize"))
    if call.attr("mode", "DCR") == "DCR":
        return {0: call.writer.node("SpaceToDepth", call.g, blocksize=block)}
    n, c, h, w = x.sizes()
    if not isinstance(c, int):
        raise Declined("an unknown number of channels")
    apart = call.g.reshape([n, c // block**2, h, block, w, block])
    return {0: apart.transpose([0, 1, 3, 5, 2, 4]).reshape(x.shape)}


def space_to_depth(call: Call) -> Gradients:
    """y = x with b × b blocks of pixels moved into channels: dx = g moved back"""
    return {
        0: call.writer.node(
            "DepthToSpace", call.g, blocksize=int(call.attr("blocksize")), mode=call.attr("mode", "DCR")
        )
    }


def triangle(call: Call) -> Gradients:
    """y = x above (or below) a diagonal, else 0: dx = g likewise"""
    return {0: call.writer.node("Trilu", call.g, call.optional(1), upper=call.attr("upper", 1))}


def reverse_sequence(call: Call) -> Gradients:
    """y = x with the first elements of each row reversed, which is its own inverse: dx = g likewise"""
    return {0: call.writer.node("ReverseSequence", call.g, call.input(1), **call.node.attrs)}


def columns_to_image(call: Call) -> Gradients:
    """y = Σ of the columns at the places that their windows read: dx is what the windows read from g"""
    block = [int(v) for v in call.number(2, "the block's shape")]
    n = len(block)
    strides, dilations = (tuple(call.attr(name) or (1,) * n) for name in ("strides", "dilations"))
    pads = tuple(call.attr("pads") or (0,) * 2 * n)
    window = Window(tuple(block), strides, dilations, pads)
    g = call.g.pad(window.around)
    counts = [(s - e) // t + 1 for s, e, t in zip(_known(g), window.extents, strides)]
    parts = taps(g, counts, window)
    columns = [part.reshape([0, 0, 1, math.prod(counts)]) for part in parts]
    stacked = columns[0] if len(columns) == 1 else call.writer.node("Concat", *columns, axis=2)
    return {0: stacked.reshape(call.x.shape)}


def _known(t: Tensor) -> list[int]:
    sizes = [s for s in t.dims[2:] if isinstance(s, int)]
    if len(sizes) != t.rank - 2:
        raise Declined("unknown sizes")
    return sizes


RULES: dict[str, Rule] = {
    "Reshape": reshaped, "Flatten": reshaped, "Squeeze": reshaped, "Unsqueeze": reshaped, "Transpose": transpose,
    "Expand": expand, "Tile": tile, "Concat": concat, "Split": split, "Slice": slice_, "Pad": pad,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "Trilu": triangle, "Compress": by_positions,
    "ReverseSequence": reverse_sequence, "Col2Im": columns_to_image,
}  # fmt: skip
