"""Reductions over axes, and functions along one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _reduction(function: Callable[[Any, list[int], bool], Any]) -> Callable[..., Any]:
    """y = function(x, axes, keepdims)"""

    def reduced(call: Any, x: Any, axes: Any = None) -> Any:
        over = [] if axes is None else [int(a) for a in axes.reshape(-1).tolist()]
        if not over and call.attr("noop_with_empty_axes", 0):
            return x
        over = [a % x.dim() for a in over] if over else list(range(x.dim()))
        return function(x, over, bool(call.attr("keepdims", 1))) if x.dim() else function(x[None], [0], False)

    return reduced


def _product(x: Any, axes: list[int], keep: bool) -> Any:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _extremum(name: str) -> Callable[[Any, list[int], bool], Any]:
    def extremum(x: Any, axes: list[int], keep: bool) -> Any:
        function = getattr(torch, name)
        if any(x.shape[axis] == 0 for axis in axes):
            least = float("inf") if name == "amin" else float("-inf")
            return x.sum(axes, keep, dtype=x.dtype) + torch.tensor(least, dtype=x.dtype)
        return function(x.to(torch.uint8), axes, keep).bool() if x.dtype is torch.bool else function(x, axes, keep)

    return extremum


def _along(name: str) -> Callable[..., Any]:
    """The index of the first, or last, extremum."""

    def place(call: Any, x: Any) -> Any:
        axis = int(call.attr("axis", 0))
        if call.attr("select_last_index", 0):
            found = x.shape[axis] - 1 - getattr(torch, name)(x.flip(axis), axis)
        else:
            found = getattr(torch, name)(x, axis)
        return found.unsqueeze(axis) if call.attr("keepdims", 1) else found

    return place


def cumulative(function: Callable[[Any, int], Any], first: int) -> Callable[..., Any]:
    """The running sum or product, excluding the current element where `exclusive`."""

    def up_to(call: Any, x: Any, axis: Any) -> Any:
        over = int(axis)
        back = bool(call.attr("reverse", 0))
        t = x.flip(over) if back else x
        made = function(t, over)
        if call.attr("exclusive", 0):
            start = torch.full_like(made.narrow(over, 0, 1), first)
            made = torch.cat([start, made.narrow(over, 0, made.shape[over] - 1)], over)
        made = made.flip(over) if back else made
        return made.to(x.dtype)

    return up_to


def top_k(call: Any, x: Any, k: Any) -> Any:
    """The k largest, or smallest, elements and their indices, of equal ones the first."""
    axis, largest = int(call.attr("axis", -1)), bool(call.attr("largest", 1))
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    count = int(k)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def hardmax(call: Any, x: Any) -> Any:
    """1 at the first maximum along an axis, else 0"""
    axis = int(call.attr("axis", -1))
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def lp_normalization(call: Any, x: Any) -> Any:
    """x / ‖x‖ along an axis, 0 where the norm is"""
    norm = torch.linalg.vector_norm(x, call.attr("p", 2), int(call.attr("axis", -1)), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


OPERATORS: dict[str, Callable[..., Any]] = {
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keep)), "ReduceProd": _reduction(_product),
    "ReduceMax": _reduction(_extremum("amax")), "ReduceMin": _reduction(_extremum("amin")),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype)),
    "ReduceL2": _reduction(lambda x, axes, keep: (x * x).sum(axes, keep, dtype=x.dtype).sqrt()),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keep, dtype=x.dtype)),
    "ArgMax": _along("argmax"), "ArgMin": _along("argmin"), "TopK": top_k, "Hardmax": hardmax,
    "Softmax": lambda call, x: torch.softmax(x, int(call.attr("axis", -1))),
    "LogSoftmax": lambda call, x: torch.log_softmax(x, int(call.attr("axis", -1))),
    "CumSum": cumulative(torch.cumsum, 0), "CumProd": cumulative(torch.cumprod, 1),
    "LpNormalization": lp_normalization,
}  # fmt: skip
