"""Layers over images of (channels, height, width), with the attributes that exporters give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .net import Net, activation, binary, pair


def _out(size: Any, kernel: int, stride: int, before: int, after: int, dilation: int = 1, ceil: int = 0) -> Any:
    if size is None:
        return None
    span = size + before + after - dilation * (kernel - 1) - 1
    return (-(-span // stride) if ceil else span // stride) + 1


def _conv(s: Net) -> None:
    channels, height, width = s.shape
    kernel, stride, dilation = s.one(1, 3, 3, 5), s.one(1, 1, 2), s.one(1, 1, 1, 2)
    groups = [g for g in (1, 1, 2, channels) if channels % g == 0]
    group = s.one(*groups)
    out = group * s.one(1, 2) if group == channels else s.one(4, 8, 6, 16) // group * group
    if out == 0:
        return
    pads: Any = [int(s.rng.integers(0, kernel // 2 + 1)) for _ in range(4)]
    auto = None
    if s.chance(0.2) and dilation == 1:
        auto, pads = s.one("SAME_UPPER", "SAME_LOWER"), None
        sizes = [None if n is None else -(-n // stride) for n in (height, width)]
    else:
        sizes = [_out(n, kernel, stride, pads[i], pads[i + 2], dilation) for i, n in enumerate((height, width))]
    if any(n is not None and n < 1 for n in sizes):
        return
    bound = 1.5 / (channels // group * kernel * kernel) ** 0.5
    w = s.weight(out, channels // group, kernel, kernel, low=-bound, high=bound)
    b = (s.weight(out),) if s.chance(0.7) else ()
    y = s.node(
        "Conv", s.last, w, *b, pads=pads, auto_pad=auto, group=group, strides=[stride] * 2, dilations=[dilation] * 2
    )
    s.step(y, (out, *sizes))


def _conv_transpose(s: Net) -> None:
    channels, height, width = s.shape
    kernel, stride, group = s.one(2, 3, 4), s.one(1, 2), s.one(1, 1, 2)
    if channels % group or (height or 0) > 12:
        return
    out, pad, extra = s.one(2, 4, 8), s.one(0, 0, 1), s.one(0, 0, stride - 1)
    w = s.weight(channels, out // group, kernel, kernel, low=-0.3, high=0.3)
    b = (s.weight(out),) if s.chance(0.6) else ()
    attributes = {"group": group, "strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [extra] * 2}
    sizes = [None if n is None else (n - 1) * stride + kernel - 2 * pad + extra for n in (height, width)]
    if any(n is not None and n < 1 for n in sizes):
        return
    s.step(s.node("ConvTranspose", s.last, w, *b, **attributes), (out // group * group, *sizes))


def _pool(s: Net) -> None:
    channels, height, width = s.shape
    kernel, stride, ceil = s.one(2, 3), s.one(1, 2), s.one(0, 0, 1)
    pads = [int(s.rng.integers(0, 2)) if kernel > 2 else 0 for _ in range(4)]
    sizes = [_out(n, kernel, stride, pads[i], pads[i + 2], 1, ceil) for i, n in enumerate((height, width))]
    if any(n is not None and n < 1 for n in sizes):
        return
    common = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "ceil_mode": ceil}
    if s.chance(0.5):
        y = s.node("MaxPool", s.last, **common)
    else:
        y = s.node("AveragePool", s.last, count_include_pad=s.one(0, 1), **common)
    s.step(y, (channels, *([None] * 2 if ceil else sizes)))


def _resize(s: Net) -> None:
    channels, height, width = s.shape
    if (height or 99) > 12:
        return
    mode = s.one("nearest", "linear", "nearest")
    across = s.one("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    nearest = s.one("floor", "ceil", "round_prefer_floor", "round_prefer_ceil") if mode == "nearest" else None
    common = {"mode": mode, "coordinate_transformation_mode": across, "nearest_mode": nearest}
    if s.chance(0.7):
        scale = s.one(2, 3, 2, 0.5)
        scales = s.constant(np.array([1, 1, scale, scale], np.float32))
        sizes = [None if n is None else int(n * scale) for n in (height, width)]
        y = s.node("Resize", s.last, "", scales, **common)
    else:
        sizes = [s.one(3, 5, 8), s.one(4, 7)]
        if s.opset < 18:
            return
        y = s.node("Resize", s.last, "", "", s.ints(*sizes), axes=[2, 3], **common)
    if all(n is None or n > 0 for n in sizes):
        s.step(y, (channels, *sizes))


def _blocks(s: Net) -> None:
    channels, height, width = s.shape
    if channels % 4 == 0 and s.chance(0.5):
        y = s.node("DepthToSpace", s.last, blocksize=2, mode=s.one("DCR", "CRD"))
        s.step(y, (channels // 4, *(None if n is None else 2 * n for n in (height, width))))
    elif None not in (height, width) and height % 2 == width % 2 == 0 and channels <= 8:
        s.step(s.node("SpaceToDepth", s.last, blocksize=2), (4 * channels, height // 2, width // 2))


def _image_norm(s: Net) -> None:
    channels, kind = s.shape[0], int(s.rng.integers(5))
    gain, shift = s.weight(channels, low=0.5, high=1.5), s.weight(channels)
    if kind == 0:
        mean, variance = s.weight(channels), s.weight(channels, low=0.5, high=2)
        y = s.node("BatchNormalization", s.last, gain, shift, mean, variance)
    elif kind == 1:
        y = s.node("InstanceNormalization", s.last, gain, shift)
    elif kind == 2 and s.opset >= 21 and channels % 2 == 0:
        y = s.node("GroupNormalization", s.last, gain, shift, num_groups=2)
    elif kind == 3:
        y = s.node("LRN", s.last, size=s.one(3, 5), alpha=s.one(1e-4, 0.1), beta=s.one(0.75, 0.5), bias=s.one(1.0, 2.0))
    else:
        y = s.node("Mul", s.last, s.weight(channels, 1, 1, low=0.5, high=1.5))
        y = s.node("Add", y, s.weight(1, channels, 1, 1))
    s.step(y)


def _squeeze_excite(s: Net) -> None:
    channels = s.shape[0]
    x, keep = s.last, s.opset >= 18
    p = s.node("GlobalAveragePool", x) if s.chance(0.5) or keep else s.node("ReduceMean", x, axes=[2, 3], keepdims=1)
    e = s.node("Conv", p, s.weight(4, channels, 1, 1), s.weight(4))
    e = s.node("Relu", e)
    e = s.node("Conv", e, s.weight(channels, 4, 1, 1), s.weight(channels))
    s.step(s.node("Mul", *((x, s.node(s.one("Sigmoid", "HardSigmoid"), e)))))


def _cut(s: Net) -> None:
    channels, height, width = s.shape
    kind = int(s.rng.integers(5))
    if kind == 0 and channels % 2 == 0:
        more = {"num_outputs": 2} if s.opset >= 18 else {}
        a, b = s.node("Split", s.last, axis=1, outputs=2, **more)
        s.step(s.node("Concat", b, s.node("Relu", a), axis=1))
    elif kind == 1 and height is not None and height >= 4:
        y = s.node("Slice", s.last, s.ints(0), s.ints(99), s.ints(2), s.ints(2))
        s.step(y, (channels, -(-height // 2), width))
    elif kind == 2 and channels >= 2:
        s.step(s.node("Slice", s.last, s.ints(1), s.ints(9999), s.ints(1)), (channels - 1, height, width))
    elif kind == 3 and s.opset >= 11:
        pads = [int(n) for n in s.rng.integers(0, 2, 4)]
        mode = s.one("constant", "reflect", "edge")
        if mode == "reflect" and (height is None or min(height, width or 0) < 3):
            return
        y = s.node("Pad", s.last, s.ints(0, 0, *pads[:2], 0, 0, *pads[2:]), mode=mode)
        sizes = [None if n is None else n + pads[i] + pads[i + 2] for i, n in enumerate((height, width))]
        s.step(y, (channels, *sizes))
    elif None not in s.shape and channels % 2 == 0:
        y = s.node("Reshape", s.last, s.ints(0, 2, channels // 2, height, width))
        y = s.node("Transpose", y, perm=[0, 2, 1, 3, 4])
        s.step(s.node("Reshape", y, s.ints(0, channels, height, width)))


LAYERS: tuple[Callable[[Net], None], ...] = (
    _conv, _conv, _conv, _conv, _conv_transpose, activation, activation, activation, binary, binary, pair, _pool,
    _resize, _blocks, _image_norm, _squeeze_excite, _cut,
)  # fmt: skip


def head(s: Net) -> None:
    channels = s.shape[0]
    y = s.last
    if s.chance(0.3):
        s.give(y, rank=4)
        return
    y = s.node("GlobalAveragePool", y) if s.chance(0.7) else s.node("GlobalMaxPool", y)
    y = s.node("Flatten", y) if s.chance(0.6) else s.node("Reshape", y, s.ints(0, channels))
    transposed = s.one(0, 1)
    w = s.weight(*((5, channels) if transposed else (channels, 5)))
    y = (
        s.node("Gemm", y, w, s.weight(5), transB=transposed)
        if s.chance(0.7)
        else s.node("MatMul", y, s.weight(channels, 5))
    )
    s.give(s.node("Softmax", y, axis=-1) if s.chance(0.3) else y, rank=2)
