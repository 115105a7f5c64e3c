"""Resize: a matrix along each axis, as the operator's text defines coordinates and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...errors import Declined
from ...ir import Array


def resize(call: Any, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """y = A₀ x A₁ᵀ … along its axes"""
    mode, how = call.attr("mode", "nearest"), call.attr("coordinate_transformation_mode", "half_pixel")
    if call.attr("antialias", 0) or call.attr("keep_aspect_ratio_policy") not in (None, "stretch"):
        raise Declined("Resize that smooths or keeps the aspect ratio")
    given = call.attr("axes")
    axes = list(range(x.dim())) if given is None else [a % x.dim() for a in given]
    use_sizes = sizes is not None and sizes.numel() > 0
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        scale = float(sizes[i]) / size if use_sizes else float(scales[i])
        count = int(sizes[i]) if use_sizes else math.floor(size * scale)
        if how == "tf_crop_and_resize":
            x = _cropped(call, x, axis, count, scale, float(roi[i]), float(roi[len(axes) + i]))
            continue
        if count == size and scale == 1:
            continue
        rows = _rows(call, mode, how, size, count, scale)
        if mode == "nearest":
            x = x.index_select(axis, torch.from_numpy(rows.argmax(1)).to(x.device))
        else:
            matrix = torch.from_numpy(rows).to(x.dtype).to(x.device)
            x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


def _cropped(call: Any, x: Any, axis: int, count: int, scale: float, start: float, end: float) -> Any:
    """One axis read from start to end, as shares of its length; elements outside are `extrapolation_value`."""
    size = x.shape[axis]
    last = size - 1
    if count > 1:
        at = start * last + np.arange(count) * ((end - start) * last / (count - 1))
    else:
        at = np.array([0.5 * (start + end) * last])
    rows = torch.from_numpy(_at(call, call.attr("mode", "nearest"), at, size)).to(x.dtype)
    made = torch.tensordot(x, rows, dims=([axis], [1])).movedim(-1, axis)
    outside = torch.from_numpy((at < 0) | (at > last)).reshape([-1, *[1] * (x.dim() - 1 - axis)])
    return torch.where(outside, torch.tensor(call.attr("extrapolation_value", 0.0), dtype=x.dtype), made)


def _rows(call: Any, mode: str, how: str, size: int, count: int, scale: float) -> Array:
    """The weights f64[count, size] of one axis."""
    places = np.arange(count, dtype=np.float64)
    if how == "half_pixel":
        at = (places + 0.5) / scale - 0.5
    elif how == "half_pixel_symmetric":
        adjustment = count / (scale * size)
        at = size / 2 * (1 - adjustment) + (places + 0.5) / scale - 0.5
    elif how == "pytorch_half_pixel":
        at = (places + 0.5) / scale - 0.5 if count > 1 else places * 0
    elif how == "align_corners":
        at = places * ((size - 1) / (count - 1)) if count > 1 else places * 0
    else:
        at = places / scale
    return _at(call, mode, at, size)


def _at(call: Any, mode: str, at: Array, size: int) -> Array:
    """The weights f64[points, size] of an axis at points in units of its elements."""
    count = len(at)
    rows = np.zeros((count, size))
    low = np.floor(at).astype(int)
    offsets, weights = _weights(call, mode, at, low)
    for offset, weight in zip(offsets, weights):
        np.add.at(rows, (np.arange(count), np.clip(low + offset, 0, size - 1)), weight)
    if mode == "cubic" and call.attr("exclude_outside", 0):
        rows[:] = 0
        for offset, weight in zip(offsets, weights):
            inside = (low + offset >= 0) & (low + offset < size)
            np.add.at(rows, (np.arange(count)[inside], (low + offset)[inside]), weight[inside])
        rows /= rows.sum(1, keepdims=True)
    return rows


def _weights(call: Any, mode: str, at: Array, low: Array) -> tuple[list[int], list[Array]]:
    """The elements that each point reads, counted from the one below it, and their weights."""
    part = at - low
    one = np.ones_like(at)
    if mode == "nearest":
        rule = call.attr("nearest_mode", "round_prefer_floor")
        up = {
            "round_prefer_floor": part > 0.5, "round_prefer_ceil": part >= 0.5, "floor": part < 0, "ceil": part > 0,
        }[rule]  # fmt: skip
        return [0, 1], [one * ~up, one * up]
    if mode == "linear":
        return [0, 1], [1 - part, part]
    a = float(call.attr("cubic_coeff_a", -0.75))

    def near(t: Array) -> Array:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Array) -> Array:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [-1, 0, 1, 2], [far(1 + part), near(part), near(1 - part), far(2 - part)]


OPERATORS: dict[str, Callable[..., Any]] = {"Resize": resize}
