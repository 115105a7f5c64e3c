"""GridSample: each point of a grid reads the elements around it, with weights linear in its coordinates."""

from __future__ import annotations

from itertools import product

from ...errors import Declined
from ...ir import DType
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


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
            dx = w.node("ScatterElements", dx, places, part, axis=2, reduction="add")
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


RULES: dict[str, Rule] = {"GridSample": grid_sample}
