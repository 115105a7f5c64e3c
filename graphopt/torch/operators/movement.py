"""Operators that move elements, and operators that create tensors from shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import Declined
from ..arrays import dtype_of, to_tensor


def numbers(t: Any) -> list[int]:
    """The elements of a tensor of integers."""
    return [int(v) for v in t.reshape(-1).tolist()]


def reshape(call: Any, x: Any, shape: Any) -> Any:
    """x in another shape; 0 copies a size unless `allowzero`"""
    sizes = numbers(shape)
    if not call.attr("allowzero", 0):
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(call: Any, x: Any) -> Any:
    """x as a matrix: axes before `axis` and from it on"""
    axis = int(call.attr("axis", 1))
    axis = axis if axis >= 0 else axis + x.dim()
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(call: Any, x: Any, axes: Any = None) -> Any:
    """x without axes of size 1"""
    return x.squeeze() if axes is None else x.squeeze(tuple(numbers(axes)))


def unsqueeze(call: Any, x: Any, axes: Any) -> Any:
    """x with new axes of size 1, counted in the result"""
    over = numbers(axes)
    for axis in sorted(a % (x.dim() + len(over)) for a in over):
        x = x.unsqueeze(axis)
    return x


def expand(call: Any, x: Any, shape: Any) -> Any:
    """x broadcast together with a shape"""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(numbers(shape))))


def split(call: Any, x: Any, sizes: Any = None) -> Any:
    """Parts along an axis, of given sizes or as equal as can be"""
    axis = int(call.attr("axis", 0))
    if sizes is not None:
        return tuple(torch.split(x, numbers(sizes), axis))
    each = -(-x.shape[axis] // int(call.attr("num_outputs", call.outputs)))
    return tuple(torch.split(x, each, axis))


def slice_(call: Any, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """x[start:end:step] along some axes"""
    first, last = numbers(starts), numbers(ends)
    over = list(range(len(first))) if axes is None else numbers(axes)
    by = [1] * len(first) if steps is None else numbers(steps)
    for start, end, axis, step in zip(first, last, over, by):
        size = x.shape[axis]
        chosen = range(size)[slice(start, None if step < 0 and end < -size else end, step)]
        if step == 1:
            x = x.narrow(axis, chosen.start, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x


def pad(call: Any, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    """x with elements around it: a constant, or copies of its own; negative amounts crop"""
    amounts = numbers(pads)
    over = list(range(x.dim())) if axes is None else [a % x.dim() for a in numbers(axes)]
    mode, n = call.attr("mode", "constant"), len(over)
    for i, axis in enumerate(over):
        before, after = amounts[i], amounts[n + i]
        x = x.narrow(axis, max(0, -before), x.shape[axis] - max(0, -before) - max(0, -after))
        before, after = max(0, before), max(0, after)
        if not before and not after:
            continue
        if mode == "constant":
            around = [0] * 2 * (x.dim() - 1 - axis) + [before, after]
            x = F.pad(x, around, value=0 if value is None else value.reshape(-1)[0].item())
        else:
            x = x.index_select(axis, _sources(mode, x.shape[axis], before, after).to(x.device))
    return x


def _sources(mode: str, size: int, before: int, after: int) -> Any:
    """The index along one axis that each element of a padded tensor is read from."""
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places.remainder(size)
    if mode == "reflect":
        period = max(1, 2 * (size - 1))
        places = places.remainder(period)
        return torch.where(places >= size, period - places, places)
    raise Declined(f"padding of mode {mode}")


def depth_to_space(call: Any, x: Any) -> Any:
    """Channels into b × b blocks of pixels"""
    b, (n, c, h, w) = int(call.attr("blocksize")), x.shape
    if call.attr("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


def space_to_depth(call: Any, x: Any) -> Any:
    """b × b blocks of pixels into channels"""
    b, (n, c, h, w) = int(call.attr("blocksize")), x.shape
    parts = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 1, 3, 5, 2, 4) if call.attr("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return parts.permute(*order).reshape(n, c * b * b, h // b, w // b)


def shape(call: Any, x: Any) -> Any:
    """The sizes of x, or of some of its axes"""
    sizes = list(x.shape)[slice(int(call.attr("start", 0)), call.attr("end"))]
    return torch.tensor(sizes, dtype=torch.int64, device=x.device)


def constant_of_shape(call: Any, sizes: Any) -> Any:
    """One number in a shape"""
    value = call.attr("value")
    one = torch.zeros(1) if value is None else to_tensor(value)
    return one.reshape(1).to(sizes.device).expand(numbers(sizes)) if sizes.numel() else one.reshape([])


def eye_like(call: Any, x: Any) -> Any:
    """Ones on a diagonal"""
    kind = call.attr("dtype")
    rows, columns = x.shape
    ones = torch.ones(rows, columns, device=x.device)
    made = torch.triu(torch.tril(ones, int(call.attr("k", 0))), int(call.attr("k", 0)))
    return made.to(x.dtype if kind is None else dtype_of(kind))


def trilu(call: Any, x: Any, k: Any = None) -> Any:
    """x above, or below, a diagonal"""
    function = torch.triu if call.attr("upper", 1) else torch.tril
    return function(x, 0 if k is None else int(k))


def columns_to_image(call: Any, x: Any, image: Any, block: Any) -> Any:
    """The adjoint of taking an image [N, C, …] apart into blocks: x [N, C · block, count] summed where they overlap"""
    sizes, kernel = numbers(image), numbers(block)
    n = len(sizes)
    strides, dilations = (list(call.attr(name) or [1] * n) for name in ("strides", "dilations"))
    pads = list(call.attr("pads") or [0] * 2 * n)
    wide = [size + pads[i] + pads[n + i] for i, size in enumerate(sizes)]
    counts = [(w - d * (k - 1) - 1) // s + 1 for w, d, k, s in zip(wide, dilations, kernel, strides)]
    parts = x.reshape(x.shape[0], -1, math.prod(kernel), *counts)
    made = x.new_zeros(x.shape[0], parts.shape[1], *wide)
    for i, tap in enumerate(itertools.product(*map(range, kernel))):
        rows = [slice(t * d, t * d + s * (c - 1) + 1, s) for t, d, s, c in zip(tap, dilations, strides, counts)]
        made[tuple([slice(None)] * 2 + rows)] += parts[:, :, i]
    return made[tuple([slice(None)] * 2 + [slice(pads[i], pads[i] + size) for i, size in enumerate(sizes)])]


def tile(call: Any, x: Any, repeats: Any) -> Any:
    """x repeated along its axes"""
    return x.repeat(numbers(repeats)) if x.dim() else x


def steps(call: Any, start: Any, limit: Any, delta: Any) -> Any:
    """start, start + delta, … below limit"""
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    return (torch.arange(count, device=start.device).to(start.dtype) * delta + start).to(start.dtype)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Expand": expand,
    "Transpose": lambda call, x: x.permute(tuple(call.attr("perm") or range(x.dim())[::-1])),
    "Concat": lambda call, *parts: torch.cat(parts, int(call.attr("axis"))), "Split": split, "Slice": slice_,
    "Pad": pad, "Tile": tile, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "Trilu": trilu,
    "Col2Im": columns_to_image,
    "Shape": shape, "Size": lambda call, x: torch.tensor(x.numel(), dtype=torch.int64, device=x.device),
    "ConstantOfShape": constant_of_shape, "EyeLike": eye_like, "Range": steps,
}  # fmt: skip
