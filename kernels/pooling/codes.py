"""Preparation of pools on 8-bit NHWC images."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import select_level
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import Quantization
from graphopt.kernels.tensors.windows import Image, Window

_FIELDS = {
    "x": "u8*", "y": "u8*", "function": "i64", "limits": "f32*", "scales": "f32*", "x_zero": "i64", "y_zero": "i64",
    "whole": "i64", "height": "i64", "width": "i64", "channels": "i64", "out_height": "i64", "out_width": "i64",
    "kernel_h": "i64", "kernel_w": "i64", "stride_h": "i64", "stride_w": "i64", "dilation_h": "i64",
    "dilation_w": "i64", "top": "i64", "left": "i64", "bottom": "i64", "right": "i64", "scratch": "i64",
    "scratch_bytes": "i64",
}  # fmt: skip
POOL = Kernel("graphopt.kernels.loops.pooling.codes:pool", _FIELDS)


def prepare_max_pool(image: Image, window: Window, *, signed: bool = False) -> Routine:
    """ONNX MaxPool of u8 or s8 codes, x: image.shape → y: window.output(image).shape, same scale and zero point.

    Padding never wins. Raises ValueError where a window would lie wholly in padding.
    """
    return _pool("max", image, window, None, None, signed, signed, False)


def prepare_average_pool(
    image: Image, window: Window, x: Quantization, y: Quantization, *, count_include_pad: bool = False
) -> Routine:
    """com.microsoft QLinearAveragePool, x: image.shape → y: window.output(image).shape.

    y = saturate(round_half_even(float32(Σ (x − x zero point)) · (x scale / (y scale · n))) + y zero point): exact int32
    sum, then float32 arithmetic. n counts the elements in the image, or in the padded image with `count_include_pad`;
    what ceil_mode adds beyond the padding never counts. Raises ValueError where a window would lie wholly in padding.
    """
    return _pool("mean", image, window, x, y, x.signed, y.signed, count_include_pad)


def _pool(
    kind: str, image: Image, window: Window, x: Quantization | None, y: Quantization | None, x_signed: bool,
    y_signed: bool, whole: bool,
) -> Routine:  # fmt: skip
    for axis, size in enumerate((image.height, image.width)):
        if not every_window_meets(window, axis, size):
            raise ValueError(f"a window of {window} lies wholly in the padding of {image}")
    out = window.output(image)
    width = 64 if select_level().lanes == 16 else 32
    micro = MicroKernel("graphopt.kernels.micro.pooling:emit", (kind, width, x_signed, y_signed))
    limits = np.zeros(2, np.float32)
    scales = np.zeros(window.taps + 1, np.float32)
    if x is not None and y is not None:
        limits[:] = y.low - y.zero_point, y.high - y.zero_point
        counts = np.arange(1, window.taps + 1, dtype=np.float32)
        scales[1:] = np.float32(x.scale) / (np.float32(y.scale) * counts)
    scratch = -(-8 * window.taps // 64) * 64
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "function": micro, "limits": limits, "scales": scales,
        "x_zero": x.zero_point if x else 0, "y_zero": y.zero_point if y else 0, "whole": int(whole),
        "height": image.height, "width": image.width, "channels": image.channels,
        "out_height": out.height, "out_width": out.width, "kernel_h": window.kernel[0], "kernel_w": window.kernel[1],
        "stride_h": window.strides[0], "stride_w": window.strides[1], "dilation_h": window.dilations[0],
        "dilation_w": window.dilations[1], "top": window.pads[0], "left": window.pads[1],
        "bottom": window.pads[2], "right": window.pads[3], "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    tiles = out.batch * out.height if out.width and out.channels else 0
    return Routine((Step(POOL, arguments, tiles, scratch=scratch),))


def every_window_meets(window: Window, axis: int, size: int) -> bool:
    """Whether each window along an axis has a tap inside the image."""
    starts = np.arange(window.output_size(axis, size)) * window.strides[axis] - window.pads[axis]
    taps = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
    return bool(np.all(np.any((taps >= 0) & (taps < size), axis=1)))
