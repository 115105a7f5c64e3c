"""The semantics of float32 operations in plain numpy, computed in float64 where sums are rounded in some order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.kernels.elementwise.error_function import erf
from graphopt.kernels.layout.interpolate import linear_taps
from graphopt.runtime.compile.legality import output_shape
from graphopt.runtime.compile.shapes import cuts_of
from graphopt.runtime.lower.floats import operations as f
from graphopt.runtime.lower.traits import Operation
from tests.kernels.naive import resize_linear

Array = np.ndarray[Any, Any]


def mapped(table: Array, codes: Array) -> Array:
    """Codes through a table of 256 entries."""
    return table.reshape(-1)[codes.view(np.uint8)]


FUNCTIONS: dict[str, Any] = {
    "sigmoid": lambda x, a, b: 1 / (1 + np.exp(-a * x)),
    "gated": lambda x, a, b: x / (1 + np.exp(-x * (a + b * x * x))),
    "tanh": lambda x, a, b: np.tanh(x), "exp": lambda x, a, b: np.exp(x), "erf": lambda x, a, b: erf(x),
    "sqrt": lambda x, a, b: np.sqrt(x), "reciprocal": lambda x, a, b: 1 / x, "negative": lambda x, a, b: -x,
    "absolute": lambda x, a, b: np.abs(x), "leaky": lambda x, a, b: np.where(x < 0, a * x, x),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "hard_swish": lambda x, a, b: x * np.clip(a * x + b, 0, 1), "number": lambda x, a, b: np.where(np.isnan(x), a, x),
}  # fmt: skip


def _float_function(operation: f.FloatFunction, x: Array) -> Array:
    with np.errstate(all="ignore"):
        y = FUNCTIONS[operation.function](x.astype(np.float64), operation.a, operation.b)
        return np.asarray(y, np.float32)


def _float_mean(operation: f.FloatMean, x: Array) -> Array:
    return np.asarray(x.astype(np.float64).mean(operation.axes or None, keepdims=operation.keep), np.float32)


def _instance_norm(operation: f.InstanceNorm, x: Array) -> Array:
    wide, axes = x.astype(np.float64), tuple(range(2, x.ndim))
    centred = wide - wide.mean(axes, keepdims=True)
    y = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + operation.epsilon)
    scale, bias = (a.reshape(-1, *(1,) * len(axes)) for a in (operation.scale, operation.bias))
    return np.asarray(y * scale + bias, np.float32)


def _float_resize(operation: f.FloatResize, x: Array, *others: Array) -> Array:
    shape = output_shape(operation, tuple(a.shape for a in (x, *others)))
    scales = operation.scales or tuple(to / size for to, size in zip(shape[2:], x.shape[2:]))
    rows, columns = (
        linear_taps(size, to, scale, operation.coordinates)  # type: ignore[arg-type]
        for size, to, scale in zip(x.shape[2:], shape[2:], scales)
    )
    return resize_linear(x.transpose(0, 2, 3, 1), rows, columns).transpose(0, 3, 1, 2)


def _pad(operation: f.Pad, x: Array) -> Array:
    y = x if operation.table is None else mapped(operation.table, x)
    return np.pad(y, operation.pads, constant_values=np.asarray(operation.value, y.dtype))


def _slice(operation: f.Slice, x: Array, *others: Array) -> Array:
    y = x
    for axis, begin, end, step in cuts_of(operation, tuple(a.shape for a in (x, *others))):
        y = np.moveaxis(np.moveaxis(y, axis, 0)[begin:end:step], 0, axis)
    y = y.squeeze(operation.cuts[0][0]) if operation.dropped else y
    return y if operation.table is None else mapped(operation.table, y)


def _blocks(operation: f.Blocks, x: Array) -> Array:
    n, c, h, w = x.shape
    b = operation.block
    if operation.kind == "space":
        return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
    split = (n, b, b, c // b**2, h, w) if operation.kind == "DCR" else (n, c // b**2, b, b, h, w)
    order = (0, 3, 4, 1, 5, 2) if operation.kind == "DCR" else (0, 1, 4, 2, 5, 3)
    return x.reshape(split).transpose(order).reshape(n, c // b**2, h * b, w * b)


def _expand(operation: f.Expand, x: Array, *others: Array) -> Array:
    return np.broadcast_to(x, output_shape(operation, (x.shape, *(other.shape for other in others))))


REFERENCES: dict[type[Operation], Callable[..., Array]] = {
    f.Blocks: _blocks,
    f.Expand: _expand,
    f.FloatFunction: _float_function,
    f.FloatMean: _float_mean,
    f.FloatResize: _float_resize,
    f.InstanceNorm: _instance_norm,
    f.Pad: _pad,
    f.Slice: _slice,
}
