"""Resize, linear in x along each axis; and GridSample, whose points read the elements around them."""

from __future__ import annotations

from itertools import product

from ...errors import Declined
from ...ir import DType, Value
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


def resize(call: Call) -> Gradients:
    """y = A₀ x A₁ᵀ … along its axes: dx = A₀ᵀ g A₁ …, where the rows of Aᵀ are what Resize makes of a unit matrix"""
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Declined("Resize that keeps the aspect ratio")
    x, g = call.x, call.g
    over = call.attr("axes")
    axes = list(range(x.rank)) if over is None else [a % x.rank for a in over]
    for i, axis in enumerate(axes):
        if _crops(call) or x.dims[axis] is None or x.dims[axis] != call.y.dims[axis] or _scale(call, i) != 1:
            g = _along(g, axis, _matrix(call, i, axis, len(axes)))
    return {0: g}


def _crops(call: Call) -> bool:
    return bool(call.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize")


def _scale(call: Call, i: int) -> float | None:
    """The scale of axis i, None if unknown; 1 where sizes are given instead."""
    scales = call.node.input(2)
    if scales is None or (scales.constant is not None and not scales.constant.size):
        return 1
    return None if scales.constant is None else float(scales.constant.array()[i])


def _matrix(call: Call, i: int, axis: int, count: int) -> Tensor:
    """Aᵀ f[in, out] of one axis: Resize with the node's own attributes on the unit matrix [1, 1, in, in].

    count: the number of the node's axes; this is axis i of them. Elements outside the operand are constant: 0 here.
    """
    w, n = call.writer, call.x.size(axis)
    unit = w.full(w.ints([n, n]), 0.0, DType.FLOAT).EyeLike().reshape(w.ints([1, 1, n, n]))
    attrs = {k: v for k, v in call.node.attrs.items() if k not in ("axes", "extrapolation_value")}
    roi: Tensor | None = None
    if _crops(call):
        given, zeros, ones = call.input(1), w.constant([0, 0, 0], DType.FLOAT), w.constant([1, 1, 1], DType.FLOAT)
        start, end = (given.slice([k], [k + 1], [0]).cast(DType.FLOAT) for k in (i, count + i))
        roi = w.node("Concat", zeros, start, ones, end, axis=0)
    scales, sizes = call.optional(2), call.optional(3)
    last: list[Tensor | Value | None]
    if sizes is None and scales is not None:
        one = w.constant([1, 1, 1], DType.FLOAT)
        last = [roi, w.node("Concat", one, scales.slice([i], [i + 1], [0]), axis=0)]
    else:
        last = [roi, None, w.ints([1, 1, n, call.y.size(axis)])]
    made = w.node("Resize", unit, *last, **attrs)
    return made.reshape([n, -1]).cast(call.x.dtype)


def _along(g: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """g with `axis` multiplied by a matrix [in, out]: Σ_out g · matrix[in, out]."""
    if axis == g.rank - 2:
        return matrix @ g
    order = [*(a for a in range(g.rank) if a != axis), axis]
    moved = g.transpose(order) @ matrix.T
    return moved.transpose([order.index(a) for a in range(g.rank)])


def grid_sample(call: Call) -> Gradients:
    """y = Σ over the corners c around a point p of x[c] Π w, w = 1 − |p − c| along each axis: dx[c] = Σ g Π w, and
    dp = Σ g x[c] ∂(Π w)/∂p, 0 outside a border; of the nearest element: dx[c] = Σ g, dp = 0"""
    mode, padding = call.attr("mode", "linear"), call.attr("padding_mode", "zeros")
    if mode in ("cubic", "bicubic") or padding == "reflection":
        raise Declined(f"GridSample with {mode} interpolation and {padding} padding")
    x, grid, w, n = call.x, call.input(1), call.writer, call.x.rank - 2
    g = call.g.reshape([x.size(0), x.size(1), -1])
    flat = x.reshape([x.size(0), x.size(1), -1])
    points = grid.reshape([x.size(0), -1, n])
    sizes = [w.ints([x.size(2 + d)]) for d in range(n)]
    lasts = [(size - 1).cast(grid.dtype) for size in sizes]
    slopes, corners = [], []
    for d in range(n):
        c = points.slice([n - 1 - d], [n - d], [2]).squeeze([2])  # the first coordinate is along the last axis
        span = lasts[d] if call.attr("align_corners", 0) else sizes[d].cast(grid.dtype)
        p = ((c + 1) * span - (span - lasts[d])) * 0.5
        slope = span * 0.5
        if padding == "border":
            slope = slope * _inside(p, lasts[d])
            p = p.Max(p.zeros()).Min(lasts[d])
        low = p.Round() if mode == "nearest" else p.Floor()
        slopes.append(slope)
        corners.append(
            [(low, low.filled(1.0), 0)] if mode == "nearest" else [(low, low + 1 - p, -1), (low + 1, p - low, 1)]
        )
    dx = flat.zeros()
    dp = [points.slice([0], [1], [2]).squeeze([2]).zeros() for _ in range(n)]
    for corner in product(*corners):
        place, seen = w.constant(0, DType.INT64), w.constant(1, grid.dtype)
        for (at, _, _), size, last in zip(corner, sizes, lasts):
            seen = seen * _inside(at, last)
            place = place * size + at.Max(at.zeros()).Min(last).cast(DType.INT64)
        places = place.unsqueeze([1]).expand(g.shape)
        if 0 in call.wanted:
            part = g * _product([weight for _, weight, _ in corner], seen).unsqueeze([1]).cast(g.dtype)
            dx = w.scatter("ScatterElements", dx, places, part, "add", axis=2)
        if 1 in call.wanted and mode != "nearest":
            read = (g * flat.GatherElements(places, axis=2)).sum([1]).cast(grid.dtype) * seen
            for d, (_, _, sign) in enumerate(corner):
                dp[d] = dp[d] + _product([weight for e, (_, weight, _) in enumerate(corner) if e != d], read) * sign
    along = [(slope * t).unsqueeze([2]) for slope, t in zip(slopes, dp)]
    joined = along[0] if n == 1 else w.node("Concat", *reversed(along), axis=2)
    return {0: dx.reshape(x.shape), 1: joined.reshape(grid.shape)}


def _inside(at: Tensor, last: Tensor) -> Tensor:
    """1 for coordinates in [0, last], else 0."""
    outside: Tensor = at.less(0).Or(at.greater(last))
    inside: Tensor = outside.Not()
    return inside.cast(at.dtype)


def _product(factors: list[Tensor], out: Tensor) -> Tensor:
    for factor in factors:
        out = out * factor
    return out


RULES: dict[str, Rule] = {"Resize": resize, "GridSample": grid_sample}
