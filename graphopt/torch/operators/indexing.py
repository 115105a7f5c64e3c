"""Gather and Scatter in their forms, and operators that select elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

_REDUCED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""Torch's names for the reductions of Scatter."""


def _counted(indices: Any, size: int) -> Any:
    """Indices as non-negative i64."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def gather(call: Any, x: Any, indices: Any) -> Any:
    """x at indices along an axis"""
    axis = int(call.attr("axis", 0)) % x.dim()
    flat = x.index_select(axis, _counted(indices, x.shape[axis]).reshape(-1))
    return flat.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(call: Any, x: Any, indices: Any) -> Any:
    """x at an index an element along an axis"""
    axis = int(call.attr("axis", 0))
    return torch.gather(x, axis, _counted(indices, x.shape[axis]))


def _places(indices: Any, sizes: list[int]) -> tuple[Any, ...]:
    return tuple(_counted(indices[..., i], size) for i, size in enumerate(sizes))


def gather_nd(call: Any, x: Any, indices: Any) -> Any:
    """x[i₀, i₁, …] after some batch axes"""
    batch, depth = int(call.attr("batch_dims", 0)), indices.shape[-1]
    if not batch:
        return x[_places(indices, list(x.shape[:depth]))]
    rows = x.reshape(-1, *x.shape[batch:])
    many = indices.reshape(rows.shape[0], -1, depth)
    made = torch.stack([row[_places(i, list(row.shape[:depth]))] for row, i in zip(rows, many)])
    return made.reshape((*indices.shape[:-1], *x.shape[batch + depth :]))


def scatter_elements(call: Any, x: Any, indices: Any, updates: Any) -> Any:
    """x with updates at an index an element along an axis"""
    axis, how = int(call.attr("axis", 0)), call.attr("reduction", "none")
    places = _counted(indices, x.shape[axis])
    if how == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCED[how])


def scatter_nd(call: Any, x: Any, indices: Any, updates: Any) -> Any:
    """x with updates at indices [i₀, i₁, …]"""
    how, depth = call.attr("reduction", "none"), indices.shape[-1]
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for i, size in enumerate(x.shape[:depth]):
        place = place * size + _counted(indices[..., i], size)
    rows = x.reshape(-1, *x.shape[depth:])
    flat, new = place.reshape(-1), updates.reshape(-1, *x.shape[depth:])
    if how == "none":
        made = rows.index_copy(0, flat, new)
    elif how == "add":
        made = rows.index_add(0, flat, new)
    else:
        made = rows.index_reduce(0, flat, new, _REDUCED[how])
    return made.reshape(x.shape)


def tensor_scatter(call: Any, x: Any, updates: Any, start: Any = None) -> Any:
    """A cache with updates from a position of each row on, round its end where that is reached"""
    axis = int(call.attr("axis", -2)) % x.dim()
    steps = torch.arange(updates.shape[axis], device=x.device).reshape([-1, *[1] * (x.dim() - 1 - axis)])
    places = steps if start is None else steps + start.reshape([-1, *[1] * (x.dim() - 1)])
    return x.scatter(axis, places.remainder(x.shape[axis]).expand(updates.shape), updates)


def one_hot(call: Any, indices: Any, depth: Any, values: Any) -> Any:
    """values[1] at the index along a new axis, else values[0]"""
    count, axis = int(depth.reshape(-1)[0]), int(call.attr("axis", -1))
    places = indices.long()
    inside = (places >= -count) & (places < count)
    chosen = F.one_hot(places.remainder(count), count).bool() & inside.unsqueeze(-1)
    made = torch.where(chosen, values[1], values[0])
    return made.movedim(-1, axis if axis >= 0 else axis + made.dim())


def compress(call: Any, x: Any, condition: Any) -> Any:
    """The slices of x along an axis, or its elements, for which a condition holds"""
    axis = call.attr("axis")
    chosen = condition.nonzero().reshape(-1)
    return x.reshape(-1)[chosen] if axis is None else x.index_select(int(axis), chosen)


def reverse_sequence(call: Any, x: Any, lengths: Any) -> Any:
    """The first elements of each row reversed"""
    batch, time = int(call.attr("batch_axis", 1)), int(call.attr("time_axis", 0))
    rows = x.movedim((batch, time), (0, 1))
    steps = torch.arange(rows.shape[1], device=x.device)
    turned = [row[torch.where(steps < n, n - 1 - steps, steps)] for row, n in zip(rows, lengths)]
    return torch.stack(turned).movedim((0, 1), (batch, time))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "Scatter": scatter_elements,
    "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "OneHot": one_hot,
    "TensorScatter": tensor_scatter, "Compress": compress,
    "NonZero": lambda call, x: x.nonzero().T if x.dim() else torch.zeros(0, int(bool(x)), dtype=torch.int64),
    "ReverseSequence": reverse_sequence,
}  # fmt: skip
