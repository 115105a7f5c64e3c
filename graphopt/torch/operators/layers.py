"""Convolutions, pools and normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ...errors import Declined
from ...ops import resolve_pads


def _window(call: Any, x: Any, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and pads: all begins and then all ends."""
    n = len(kernel)
    strides, dilations = (list(call.attr(name) or [1] * n) for name in ("strides", "dilations"))
    mode = call.attr("auto_pad", "NOTSET")
    pads = resolve_pads(mode, call.attr("pads") or (), list(x.shape[2:]), kernel, strides, dilations)
    return strides, dilations, list(pads)


def _padded(x: Any, pads: Sequence[int], value: float = 0.0) -> Any:
    n = len(pads) // 2
    around = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]
    return F.pad(x, around, value=value) if any(around) else x


def conv(call: Any, x: Any, w: Any, b: Any = None) -> Any:
    """w ∗ x + b"""
    n = w.dim() - 2
    strides, dilations, pads = _window(call, x, list(w.shape[2:]))
    function, group = getattr(F, f"conv{n}d", None), int(call.attr("group", 1))
    if function is None:
        raise Declined(f"convolution over {n} axes")
    if pads[:n] == pads[n:] and min(pads, default=0) >= 0:
        return function(x, w, b, strides, pads[:n], dilations, group)
    return function(_padded(x, pads), w, b, strides, 0, dilations, group)


def conv_transpose(call: Any, x: Any, w: Any, b: Any = None) -> Any:
    """The adjoint of Conv, cut to its output"""
    n, kernel = w.dim() - 2, list(w.shape[2:])
    strides, dilations = (list(call.attr(name) or [1] * n) for name in ("strides", "dilations"))
    extra, mode = list(call.attr("output_padding") or [0] * n), call.attr("auto_pad", "NOTSET")
    full = [(s - 1) * t + d * (k - 1) + 1 for s, t, d, k in zip(x.shape[2:], strides, dilations, kernel)]
    wanted = call.attr("output_shape")
    if wanted is None and mode.startswith("SAME"):
        wanted = [s * t for s, t in zip(x.shape[2:], strides)]
    if wanted is not None:
        totals = [f + e - o for f, e, o in zip(full, extra, list(wanted)[-n:])]
        small = [max(0, t) // 2 for t in totals]
        begins = small if mode == "SAME_UPPER" else [max(0, t) - s for t, s in zip(totals, small)]
        pads = [*begins, *(t - b for t, b in zip(totals, begins))]
    else:
        pads = [0] * 2 * n if mode == "VALID" else list(call.attr("pads") or [0] * 2 * n)
    function, group = getattr(F, f"conv_transpose{n}d", None), int(call.attr("group", 1))
    if function is None:
        raise Declined(f"transposed convolution over {n} axes")
    y = function(x, w, None, strides, 0, 0, group, dilations)
    y = _padded(y, [-p for p in pads[:n]] + [e - p for p, e in zip(pads[n:], extra)])
    return y if b is None else y + b.reshape(-1, *[1] * n)


def _extended(call: Any, x: Any, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, pads, and the padding that `ceil_mode` adds at each end to complete the last windows."""
    strides, dilations, pads = _window(call, x, kernel)
    n, more = len(kernel), []
    for i, (size, k) in enumerate(zip(x.shape[2:], kernel)):
        room = size + pads[i] + pads[n + i] - dilations[i] * (k - 1) - 1
        windows = -(-room // strides[i]) if call.attr("ceil_mode", 0) else room // strides[i]
        if windows * strides[i] >= size + pads[i]:  # a window that starts beyond the operand is dropped
            windows -= 1
        more.append(max(0, windows * strides[i] - room))
    return strides, dilations, pads, more


def max_pool(call: Any, x: Any) -> Any:
    """The maximum of each window, and with a second output its index in the flattened operand"""
    kernel = list(call.attr("kernel_shape"))
    strides, dilations, pads, more = _extended(call, x, kernel)
    n = len(kernel)
    low = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    ends = [p + m for p, m in zip(pads[n:], more)]
    wide = _padded(x, [*pads[:n], *ends], low)
    function = getattr(F, f"max_pool{n}d")
    if call.outputs == 1:
        if not x.is_floating_point():
            return function(wide.double(), kernel, strides, 0, dilations).to(x.dtype)
        return function(wide, kernel, strides, 0, dilations)
    y, places = function(wide, kernel, strides, 0, dilations, return_indices=True)
    at, rest = [], places
    for i in reversed(range(n)):
        at.append(rest % wide.shape[2 + i] - pads[i])
        rest = rest // wide.shape[2 + i]
    flat, step, order = torch.zeros_like(places), 1, range(n)
    for i in order if call.attr("storage_order", 0) else reversed(order):
        flat, step = flat + at[n - 1 - i] * step, step * x.shape[2 + i]
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * step
    return y, flat + planes.reshape(x.shape[0], x.shape[1], *[1] * n)


def average_pool(call: Any, x: Any) -> Any:
    """The mean of each window, of the operand's elements alone unless `count_include_pad`"""
    kernel = list(call.attr("kernel_shape"))
    strides, dilations, pads, more = _extended(call, x, kernel)
    n = len(kernel)
    ones = torch.ones_like(x[:1, :1])
    if call.attr("count_include_pad", 0):
        ones = _padded(ones, pads, 1.0)
        ones = _padded(ones, [0] * n + more)
    else:
        ones = _padded(ones, [*pads[:n], *(p + m for p, m in zip(pads[n:], more))])
    wide = _padded(x, [*pads[:n], *(p + m for p, m in zip(pads[n:], more))])
    weights = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    function = getattr(F, f"conv{n}d")
    planes = wide.reshape(-1, 1, *wide.shape[2:])
    total = function(planes, weights, None, strides, 0, dilations)
    count = function(ones, weights, None, strides, 0, dilations)
    return total.reshape(*x.shape[:2], *total.shape[2:]) / count


def max_unpool(call: Any, x: Any, places: Any, shape: Any = None) -> Any:
    """x at flat places of a larger tensor of zeros"""
    if shape is not None:
        raise Declined("a given output shape, which ONNX and onnxruntime index differently")
    kernel = list(call.attr("kernel_shape"))
    n = len(kernel)
    strides, pads = list(call.attr("strides") or [1] * n), list(call.attr("pads") or [0] * 2 * n)
    sizes = [(x.shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[n + i] for i in range(n)]
    flat = x.new_zeros(math.prod((*x.shape[:2], *sizes)))
    return flat.index_copy(0, places.reshape(-1), x.reshape(-1)).reshape(*x.shape[:2], *sizes)


def lp_pool(call: Any, x: Any) -> Any:
    """(Σ |x|ᵖ)^(1/p) of each window"""
    kernel, p = list(call.attr("kernel_shape")), float(call.attr("p", 2))
    strides, dilations, pads, more = _extended(call, x, kernel)
    n = len(kernel)
    wide = _padded(x.abs() ** p, [*pads[:n], *(q + m for q, m in zip(pads[n:], more))])
    weights = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    total = getattr(F, f"conv{n}d")(wide.reshape(-1, 1, *wide.shape[2:]), weights, None, strides, 0, dilations)
    return total.reshape(*x.shape[:2], *total.shape[2:]) ** (1 / p)


def _spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _by_channel(t: Any, x: Any) -> Any:
    return t.reshape(1, -1, *[1] * (x.dim() - 2))


def batch_normalization(call: Any, x: Any, scale: Any, b: Any, mean: Any, variance: Any) -> Any:
    """γ (x − m) / √(v + ε) + β with the statistics of the model; in training mode of the batch, and the running ones"""
    running = (mean, variance)
    if call.attr("training_mode", 0):
        axes, momentum = (0, *_spatial(x)), call.attr("momentum", 0.9)
        variance, mean = torch.var_mean(x, axes, correction=0)
        running = tuple(old * momentum + new * (1 - momentum) for old, new in zip(running, (mean, variance)))
    s = scale / torch.sqrt(variance + call.attr("epsilon", 1e-5))
    y = x * _by_channel(s, x).to(x.dtype) + _by_channel(b - mean * s, x).to(x.dtype)
    return (y, *running, *running)[: call.outputs]


def layer_normalization(call: Any, x: Any, scale: Any, b: Any = None) -> Any:
    """γ (x − mean) r + β over the last axes; also mean and r"""
    axis = int(call.attr("axis", -1)) % x.dim()
    if call.outputs == 1:
        sizes = x.shape[axis:]
        fits = scale.shape == sizes and (b is None or b.shape == sizes)
        if fits:
            return F.layer_norm(x, sizes, scale, b, call.attr("epsilon", 1e-5))
    axes = tuple(range(axis, x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = wide.mean(axes, keepdim=True)
    r = 1 / torch.sqrt(((wide - mean) ** 2).mean(axes, keepdim=True) + call.attr("epsilon", 1e-5))
    y = ((wide - mean) * r).to(x.dtype) * scale
    return (y if b is None else y + b, mean, r)[: call.outputs]


def rms_normalization(call: Any, x: Any, scale: Any) -> Any:
    """γ x / √(mean x² + ε) over the last axes"""
    axes = tuple(range(int(call.attr("axis", -1)) % x.dim(), x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    r = torch.rsqrt((wide * wide).mean(axes, keepdim=True) + call.attr("epsilon", 1e-5))
    return (wide * r).to(x.dtype) * scale


def instance_normalization(call: Any, x: Any, scale: Any, b: Any) -> Any:
    """γ (x − mean) / deviation + β over the spatial axes"""
    return F.instance_norm(x, None, None, scale, b, True, 0.0, call.attr("epsilon", 1e-5))


def group_normalization(call: Any, x: Any, scale: Any, b: Any) -> Any:
    """As of a layer, over the channels of each group with the spatial axes"""
    groups = int(call.attr("num_groups"))
    if scale.shape[0] == groups:
        scale, b = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, b))
    return F.group_norm(x, groups, scale, b, call.attr("epsilon", 1e-5))


def local_response_normalization(call: Any, x: Any) -> Any:
    """x (k + α/n Σ x²)^−β over n neighbouring channels"""
    size = int(call.attr("size"))
    square = F.pad((x * x).movedim(1, -1), [(size - 1) // 2, size - 1 - (size - 1) // 2])
    total = square.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x * (call.attr("bias", 1.0) + call.attr("alpha", 1e-4) / size * total) ** -call.attr("beta", 0.75)


def grid_sample(call: Any, x: Any, grid: Any) -> Any:
    """x at the points of a grid"""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.attr("mode", "linear"), call.attr("mode", "linear"))
    padding, corners = call.attr("padding_mode", "zeros"), bool(call.attr("align_corners", 0))
    return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=corners)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": max_pool, "AveragePool": average_pool, "LpPool": lp_pool,
    "MaxUnpool": max_unpool,
    "GlobalAveragePool": lambda call, x: x.mean(_spatial(x), keepdim=True),
    "GlobalMaxPool": lambda call, x: x.amax(_spatial(x), keepdim=True),
    "GlobalLpPool": lambda call, x: torch.linalg.vector_norm(x, call.attr("p", 2), _spatial(x), keepdim=True),
    "BatchNormalization": batch_normalization, "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization, "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization, "LRN": local_response_normalization, "GridSample": grid_sample,
}  # fmt: skip
