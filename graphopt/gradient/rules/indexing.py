"""Gather and Scatter in their forms, and the operators that select elements."""

from __future__ import annotations

from collections.abc import Callable

from ...ir import DType
from ..call import Call, Gradients, Rule
from ..tensor import Tensor
from .movement import by_positions


def gather(call: Call) -> Gradients:
    """y = x[i] along an axis: dx = Σ g at the indices"""
    x, indices, axis = call.x, call.input(1), call.axis(default=0)
    before, after = list(range(axis)), list(range(axis + indices.rank, call.g.rank))
    rows = call.g.transpose([*range(axis, axis + indices.rank), *before, *after])
    places = indices.cast(DType.INT64).unsqueeze([indices.rank])
    order = [axis, *(a for a in range(x.rank) if a != axis)]
    shape = call.writer.ints([x.size(a) for a in order]) if axis else x.shape
    empty = call.writer.full(shape, 0.0, call.g.dtype)
    summed = call.writer.scatter("ScatterND", empty, places, rows, "add")
    return {0: summed.transpose([order.index(a) for a in range(x.rank)])}


def gather_elements(call: Call) -> Gradients:
    """y = x[i] for an index an element along an axis: dx = Σ g at the indices"""
    return {0: _scatter(call.x.zeros(), call.input(1), call.g, call.axis(default=0), "add")}


def _scatter(data: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str) -> Tensor:
    return data.writer.scatter("ScatterElements", data, indices, updates, reduction, axis=axis)


def gather_nd(call: Call) -> Gradients:
    """y = x[i₀, i₁, …]: dx = Σ g at the indices"""
    if call.attr("batch_dims", 0):
        return by_positions(call)
    return {0: call.writer.scatter("ScatterND", call.x.zeros(), call.input(1), call.g, "add")}


def scatter_elements(call: Call) -> Gradients:
    """y = x with updates u at the indices: dx = g, 0 at the indices; du = g there. With `add`: dx = g. With `mul`:
    dx = g Π u, du = g y / u. With `max` and `min`: to whichever is the result"""
    indices, axis = call.input(1), call.axis(default=0)
    return _scattered(
        call,
        lambda t: call.writer.node("GatherElements", t, indices, axis=axis),
        lambda data, u, how: _scatter(data, indices, u, axis, how),
    )


def scatter_nd(call: Call) -> Gradients:
    """y = x with updates u at the indices: as ScatterElements"""
    indices = call.input(1)

    def scatter(data: Tensor, u: Tensor, how: str) -> Tensor:
        return call.writer.scatter("ScatterND", data, indices, u, how)

    return _scattered(call, lambda t: call.writer.node("GatherND", t, indices), scatter)


def _scattered(
    call: Call, read: Callable[[Tensor], Tensor], scatter: Callable[[Tensor, Tensor, str], Tensor]
) -> Gradients:
    x, updates, g, how = call.x, call.input(2), call.g, call.attr("reduction", "none")
    found: Gradients = {}
    if how in ("none", "add"):
        if 0 in call.wanted:
            found[0] = g if how == "add" else scatter(g, updates.zeros(), "none")
        if 2 in call.wanted:
            found[2] = read(g)
    elif how == "mul":
        if 0 in call.wanted:
            found[0] = g * scatter(x.filled(1.0), updates, "mul")
        if 2 in call.wanted:
            found[2] = read(g * call.y) / updates
    else:
        if 0 in call.wanted:
            found[0] = g * x.equals(call.y).cast(x.dtype)
        if 2 in call.wanted:
            found[2] = read(g) * updates.equals(read(call.y)).cast(x.dtype)
    return found


def top_k(call: Call) -> Gradients:
    """y = the k largest elements along an axis: dx = g at their indices"""
    indices = Tensor(call.writer, call.node.outputs[1])
    return {0: _scatter(call.x.zeros(), indices, call.g, call.axis(default=-1), "none")}


def tensor_scatter(call: Call) -> Gradients:
    """y = the cache x with the update u from a position of each row on, round the end where `circular`: dx = g, 0
    there; du = g there"""
    x, u, w = call.x, call.input(1), call.writer
    axis, rank = call.axis(default=-2), call.x.rank
    zero, one = w.constant(0, DType.INT64), w.constant(1, DType.INT64)
    steps = w.node("Range", zero, u.shape.slice([axis], [axis + 1]).squeeze([0]), one)
    places = steps.unsqueeze([a for a in range(rank) if a != axis])
    start = call.optional(2)
    if start is not None:
        places = places + start.unsqueeze(list(range(1, rank)))
    places = places.Mod(x.shape.slice([axis], [axis + 1])).expand(u.shape)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = _scatter(call.g, places, u.zeros(), axis, "none")
    if 1 in call.wanted:
        found[1] = w.node("GatherElements", call.g, places, axis=axis)
    return found


def one_hot(call: Call) -> Gradients:
    """y = on at the index, else off: d[off, on] = [Σ g elsewhere, Σ g at the index]"""
    w, values = call.writer, call.input(2)
    unit = w.constant([0, 1], values.dtype)
    chosen = w.node("OneHot", call.input(0), call.input(1), unit, axis=call.attr("axis", -1))
    on = (call.g * chosen).sum()
    return {2: w.node("Concat", (call.g.sum() - on).reshape([1]), on.reshape([1]), axis=0)}


RULES: dict[str, Rule] = {
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "ScatterElements": scatter_elements,
    "Scatter": scatter_elements, "ScatterND": scatter_nd, "TopK": top_k, "OneHot": one_hot,
    "TensorScatter": tensor_scatter,
}  # fmt: skip
