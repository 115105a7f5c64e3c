"""Reductions over axes, and the functions normalised along one axis."""

from __future__ import annotations

import math

from ...errors import Declined
from ..call import Call, Gradients, Rule
from ..tensor import Tensor


def _reduced_axes(call: Call) -> list[int]:
    """The axes of a reduction."""
    axes = call.axes(1)
    if axes:
        return sorted(axes)
    return [] if call.attr("noop_with_empty_axes", 0) else list(range(call.x.rank))


def _kept(call: Call, t: Tensor) -> Tensor:
    """A tensor of the result's shape with the reduced axes as axes of size 1."""
    if call.attr("keepdims", 1):
        return t
    return t.unsqueeze(_reduced_axes(call))


def _count(call: Call) -> Tensor | float:
    """The number of elements that each element of the result is reduced from."""
    axes = _reduced_axes(call)
    sizes = [call.x.size(axis) for axis in axes]
    if all(isinstance(s, int) for s in sizes):
        return float(math.prod(s for s in sizes if isinstance(s, int)))
    return call.writer.node("ReduceProd", call.writer.ints(sizes), keepdims=0).cast(call.x.dtype)


def reduce_sum(call: Call) -> Gradients:
    """y = Σx: dx = g, expanded"""
    return {0: _kept(call, call.g).expand(call.x.shape)}


def reduce_mean(call: Call) -> Gradients:
    """y = Σx / n: dx = g / n, expanded"""
    return {0: (_kept(call, call.g) / _count(call)).expand(call.x.shape)}


def reduce_extremum(call: Call) -> Gradients:
    """y = max x (or min): dx = g [x = y] / (how many equal y)"""
    hits = call.x.equals(_kept(call, call.y)).cast(call.x.dtype)
    return {0: hits * (_kept(call, call.g) / hits.sum(_reduced_axes(call), keepdims=True))}


def reduce_l1(call: Call) -> Gradients:
    """y = Σ|x|: dx = g sign x"""
    return {0: call.x.Sign() * _kept(call, call.g)}


def reduce_l2(call: Call) -> Gradients:
    """y = √Σx²: dx = g x / y, 0 where y = 0"""
    norm = _kept(call, call.y)
    return {0: call.x * (_kept(call, call.g) / norm.equals(0).where(1.0, norm))}


def reduce_log_sum(call: Call) -> Gradients:
    """y = ln Σx: dx = g e^−y"""
    return {0: (_kept(call, call.g) * (-_kept(call, call.y)).Exp()).expand(call.x.shape)}


def reduce_log_sum_exp(call: Call) -> Gradients:
    """y = ln Σeˣ: dx = g e^(x − y)"""
    return {0: (call.x - _kept(call, call.y)).Exp() * _kept(call, call.g)}


def reduce_sum_square(call: Call) -> Gradients:
    """y = Σx²: dx = 2 g x"""
    return {0: call.x * (_kept(call, call.g) * 2)}


def reduce_prod(call: Call) -> Gradients:
    """y = Πx: dxᵢ = g Π_{j≠i} xⱼ, which is y / xᵢ without zeros, and the product of the others at the only zero"""
    x, axes = call.x, _reduced_axes(call)
    zero = x.equals(0)
    filled = zero.where(1.0, x)
    w = call.writer
    rest = w.node("ReduceProd", filled, w.ints(axes), keepdims=1) if axes else filled
    zeros = zero.cast(x.dtype).sum(axes, keepdims=True)
    others = zeros - zero.cast(x.dtype)  # zeros among the other elements
    return {0: others.equals(0).where(rest / filled, 0.0) * _kept(call, call.g)}


def softmax(call: Call) -> Gradients:
    """y = eˣ / Σeˣ: dx = y (g − Σ g y)"""
    y, axis = call.y, call.axis(default=-1)
    return {0: y * (call.g - (call.g * y).sum([axis], keepdims=True))}


def log_softmax(call: Call) -> Gradients:
    """y = x − ln Σeˣ: dx = g − e^y Σ g"""
    axis = call.axis(default=-1)
    return {0: call.g - call.y.Exp() * call.g.sum([axis], keepdims=True)}


def cumulative_sum(call: Call) -> Gradients:
    """yᵢ = Σ_{j ≤ i} xⱼ: dxⱼ = Σ_{i ≥ j} gᵢ"""
    reverse = 1 - call.attr("reverse", 0)
    axis = call.input(1)
    return {0: call.writer.node("CumSum", call.g, axis, exclusive=call.attr("exclusive", 0), reverse=reverse)}


def cumulative_product(call: Call) -> Gradients:
    """yᵢ = Π_{j ≤ i} xⱼ: dxⱼ = Σ_{i ≥ j} gᵢ yᵢ / xⱼ; undefined where x is 0"""
    axis, exclusive = call.input(1), call.attr("exclusive", 0)
    reverse = 1 - call.attr("reverse", 0)
    return {0: call.writer.node("CumSum", call.g * call.y, axis, exclusive=exclusive, reverse=reverse) / call.x}


def lp_normalization(call: Call) -> Gradients:
    """y = x / ‖x‖₂: dx = (g − y Σ g y) / ‖x‖₂; with p = 1, y = x / Σ|x|: dx = (g − sign x Σ g y) / Σ|x|"""
    x, y, axis = call.x, call.y, call.axis(default=-1)
    along = (call.g * y).sum([axis], keepdims=True)
    if call.attr("p", 2) == 2:
        norm, direction = (x * x).sum([axis], keepdims=True).Sqrt(), y
    elif call.attr("p", 2) == 1:
        norm, direction = x.Abs().sum([axis], keepdims=True), x.Sign()
    else:
        raise Declined(f"LpNormalization with p = {call.attr('p')}")
    safe = norm.equals(0).where(1.0, norm)
    return {0: (call.g - direction * along) / safe}


RULES: dict[str, Rule] = {
    "ReduceSum": reduce_sum, "ReduceMean": reduce_mean, "ReduceMax": reduce_extremum, "ReduceMin": reduce_extremum,
    "ReduceL1": reduce_l1, "ReduceL2": reduce_l2, "ReduceLogSum": reduce_log_sum, "ReduceProd": reduce_prod,
    "ReduceLogSumExp": reduce_log_sum_exp, "ReduceSumSquare": reduce_sum_square, "Softmax": softmax,
    "LogSoftmax": log_softmax, "CumSum": cumulative_sum, "CumProd": cumulative_product,
    "LpNormalization": lp_normalization,
}  # fmt: skip
