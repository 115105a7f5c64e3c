"""Pooling: maximum, average, norm; over windows and over all spatial axes."""

from __future__ import annotations

import math

import numpy as np

from ...errors import Declined
from ...ir import Array, Value
from ..call import Call, Gradients, Rule
from ..tensor import Tensor
from .convolution import Window, spread, window_of


def max_pool(call: Call) -> Gradients:
    """yᵢ = x at the place pᵢ of the window's maximum: dx = Σᵢ gᵢ at pᵢ"""
    known = len(call.node.outputs) > 1 and not call.attr("storage_order", 0)
    places = call.node.outputs[1] if known else _places(call)
    return {0: scattered(call.x, Tensor(call.writer, places), call.g)}


def _places(call: Call) -> Value:
    """The index of each maximum in the flattened operand, by the same MaxPool with its second output, row after row."""
    attrs = {**call.node.attrs, "storage_order": None}
    pooled, places = call.writer.nodes("MaxPool", call.x, outputs=2, **attrs)
    pooled.value.name = "pooled"  # unread, but MaxPool's first output must have a name
    return places.value


def scattered(x: Tensor, places: Tensor, g: Tensor) -> Tensor:
    """Σ of the elements of g at flat indices of x, in the shape of x."""
    writer = x.writer
    sizes = x.type.size
    count = writer.constant(np.array([sizes], np.int64)) if sizes is not None else x.Size().reshape([1])
    empty = writer.full(count, 0.0, g.dtype)
    flat = writer.scatter("ScatterElements", empty, places.reshape([-1]), g.reshape([-1]), "add", axis=0)
    return flat.reshape(x.shape)


def _ones(x: Tensor, window: Window) -> Tensor:
    return x.writer.constant(np.ones((1, 1, *window.kernel)), x.dtype)


def _spread(call: Call, g: Tensor, window: Window) -> Tensor:
    """Each element of x takes the sum of g over the windows that read it."""
    x = call.x
    planes = x.reshape([-1, 1, *x.sizes()[2:]])
    flat = g.reshape([-1, 1, *g.sizes()[2:]])
    return spread(flat, _ones(x, window), planes, window).reshape(x.shape)


def average_pool(call: Call) -> Gradients:
    """yᵢ = Σ over the window / nᵢ: dx = Σ over the windows that read it of gᵢ / nᵢ"""
    kernel = tuple(call.attr("kernel_shape"))
    window = window_of(call, kernel, call.x)
    include = bool(call.attr("count_include_pad", 0))
    if (include and not call.attr("ceil_mode", 0)) or (not any(window.pads) and not call.attr("ceil_mode", 0)):
        return {0: _spread(call, call.g / float(math.prod(kernel)), window)}
    sizes, windows = call.x.dims[2:], call.g.dims[2:]
    known = [s for s in sizes if isinstance(s, int)]
    counts = [n for n in windows if isinstance(n, int)]
    if len(known) == len(sizes) and len(counts) == len(windows):
        axes = [_readers(window, i, known[i], counts[i], include) for i in range(window.rank)]
        table = np.ones((1, 1))
        for axis in axes:
            table = table[..., None] * axis
        return {0: _spread(call, call.g / call.writer.constant(np.maximum(table, 1), call.x.dtype), window)}
    if call.attr("ceil_mode", 0):
        raise Declined("average pooling with ceil_mode over unknown sizes")
    one = call.writer.full(call.writer.ints([1, 1, *call.x.sizes()[2:]]), 1.0, call.x.dtype)
    attrs = {"strides": window.strides, "dilations": window.dilations, "pads": window.pads}
    n = call.writer.node("Conv", one, _ones(call.x, window), **attrs)
    return {0: _spread(call, call.g / n, window)}


def _readers(window: Window, axis: int, size: int, count: int, include: bool) -> Array:
    """The number of elements averaged by each window along one axis: of the operand alone, or with its padding."""
    low = window.begins[axis] if include else 0
    high = size + (window.ends[axis] if include else 0)
    starts = np.arange(count) * window.strides[axis] - window.begins[axis]
    reads = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
    counted: Array = ((reads >= -low) & (reads < high)).sum(axis=1).astype(np.float64)
    return counted


def lp_pool(call: Call) -> Gradients:
    """yᵢ = (Σ |x|ᵖ)^(1/p): dx = sign x |x|^(p−1) Σ over the windows that read it of gᵢ yᵢ^(1−p)"""
    p = float(call.attr("p", 2))
    window = window_of(call, tuple(call.attr("kernel_shape")), call.x)
    safe = call.y.equals(0).where(1.0, call.y)
    shared = _spread(call, call.g * safe ** (1 - p), window)
    return {0: call.x.Sign() * call.x.Abs() ** (p - 1) * shared}


def global_average_pool(call: Call) -> Gradients:
    """y = mean of x over the spatial axes: dx = g / n"""
    axes = list(range(2, call.x.rank))
    sizes = [call.x.size(a) for a in axes]
    if all(isinstance(s, int) for s in sizes):
        count = math.prod(s for s in sizes if isinstance(s, int))
        ones = call.writer.constant(np.ones((1, count)), call.x.dtype)
        share = (call.g / float(count)).reshape([-1, 1])
        return {0: (share @ ones).reshape(call.x.shape)}  # Expand takes five times as long, on one thread
    total = call.writer.node("ReduceProd", call.writer.ints(sizes), keepdims=0).cast(call.x.dtype)
    return {0: (call.g / total).expand(call.x.shape)}


def global_max_pool(call: Call) -> Gradients:
    """y = max of x over the spatial axes: dx = g [x = y] / (how many equal y)"""
    hits = call.x.equals(call.y).cast(call.x.dtype)
    return {0: hits * (call.g / hits.sum(list(range(2, call.x.rank)), keepdims=True))}


def global_lp_pool(call: Call) -> Gradients:
    """y = (Σ |x|ᵖ)^(1/p): dx = g sign x |x|^(p−1) y^(1−p)"""
    p = float(call.attr("p", 2))
    safe = call.y.equals(0).where(1.0, call.y)
    return {0: call.x.Sign() * call.x.Abs() ** (p - 1) * (call.g * safe ** (1 - p))}


def max_unpool(call: Call) -> Gradients:
    """y at place pᵢ is xᵢ, else 0: dxᵢ = g at pᵢ"""
    if call.node.input(2) is not None:
        raise Declined("MaxUnpool with a given output shape")
    places = call.input(1)
    return {0: call.writer.node("Gather", call.g.reshape([-1]), places.reshape([-1]), axis=0).reshape(places.shape)}


RULES: dict[str, Rule] = {
    "MaxPool": max_pool, "AveragePool": average_pool, "LpPool": lp_pool, "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool, "GlobalLpPool": global_lp_pool, "MaxUnpool": max_unpool,
}  # fmt: skip
