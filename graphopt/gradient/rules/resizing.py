"""Resize: linear in x along each axis, so its gradient is a product with the transposed matrix of each axis."""

from __future__ import annotations

from ...errors import Declined
from ...ir import DType, Value
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


def resize(call: Call) -> Gradients:
    """y = A₀ x A₁ᵀ … along its axes: dx = A₀ᵀ g A₁ …, where the rows of Aᵀ are what Resize makes of a unit matrix"""
    if call.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Declined("Resize that crops")
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Declined("Resize that keeps the aspect ratio")
    x, g = call.x, call.g
    over = call.attr("axes")
    axes = list(range(x.rank)) if over is None else [a % x.rank for a in over]
    for i, axis in enumerate(axes):
        if x.dims[axis] is None or x.dims[axis] != call.y.dims[axis] or _scale(call, i) != 1:
            g = _along(g, axis, _matrix(call, i, axis))
    return {0: g}


def _scale(call: Call, i: int) -> float | None:
    """The scale of axis i, None where it is not known; 1 where sizes are given instead."""
    scales = call.node.input(2)
    if scales is None or (scales.constant is not None and not scales.constant.size):
        return 1
    return None if scales.constant is None else float(scales.constant.array()[i])


def _matrix(call: Call, i: int, axis: int) -> Tensor:
    """Aᵀ f[in, out] of one axis: Resize with the node's own attributes on the unit matrix [1, 1, in, in]."""
    w, n = call.writer, call.x.size(axis)
    unit = w.full(w.ints([n, n]), 0.0, DType.FLOAT).EyeLike().reshape(w.ints([1, 1, n, n]))
    attrs = {k: v for k, v in call.node.attrs.items() if k != "axes"}
    scales, sizes = call.optional(2), call.optional(3)
    last: list[Tensor | Value | None]
    if sizes is None and scales is not None:
        one = w.constant([1, 1, 1], DType.FLOAT)
        last = [None, w.node("Concat", one, scales.slice([i], [i + 1], [0]), axis=0)]
    else:
        last = [None, None, w.ints([1, 1, n, call.y.size(axis)])]
    made = w.node("Resize", unit, *last, **attrs)
    return made.reshape([n, -1]).cast(call.x.dtype)


def _along(g: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """g with `axis` multiplied by a matrix [in, out]: Σ_out g · matrix[in, out]."""
    if axis == g.rank - 2:
        return matrix @ g
    order = [*(a for a in range(g.rank) if a != axis), axis]
    moved = g.transpose(order) @ matrix.T
    return moved.transpose([order.index(a) for a in range(g.rank)])


RULES: dict[str, Rule] = {"Resize": resize}
