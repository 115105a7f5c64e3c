"""Preparation of pools on 8-bit NHWC images."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import select_level
from graphopt.kernels.core.memory import whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import Quantization
from graphopt.kernels.tensors.windows import Image, Window, WindowRecord

POOL = Kernel(
    "graphopt.kernels.loops.pooling.codes:pool",
    {
        "x": "u8*", "y": "u8*", "function": "i64", "limits": "f32*", "scales": "f32*", "x_zero": "i64",
        "y_zero": "i64", "count_padding": "i64", "window": WindowRecord, "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip


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
    elements beyond the padding, by ceil_mode, never count. Raises ValueError where a window would lie wholly in
    padding.
    """
    return _pool("mean", image, window, x, y, x.signed, y.signed, count_include_pad)


def _pool(
    kind: str, image: Image, window: Window, x: Quantization | None, y: Quantization | None, x_signed: bool,
    y_signed: bool, count_padding: bool,
) -> Routine:  # fmt: skip
    window.check_covers(image)
    out = window.output(image)
    width = 64 if select_level().lanes == 16 else 32
    limits = np.zeros(2, np.float32)
    scales = np.zeros(window.taps + 1, np.float32)
    if x is not None and y is not None:
        limits[:] = y.low - y.zero_point, y.high - y.zero_point
        counts = np.arange(1, window.taps + 1, dtype=np.float32)
        scales[1:] = np.float32(x.scale) / (np.float32(y.scale) * counts)
    scratch = whole_lines(8 * window.taps)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"),
        "function": MicroKernel("graphopt.kernels.micro.pooling:emit", (kind, width, x_signed, y_signed)),
        "limits": limits, "scales": scales, "x_zero": x.zero_point if x else 0, "y_zero": y.zero_point if y else 0,
        "count_padding": int(count_padding), "window": window.record(image), "scratch": SCRATCH,
        "scratch_bytes": scratch,
    }  # fmt: skip
    tiles = out.batch * out.height if out.width and out.channels else 0
    return Routine((Step(POOL, arguments, tiles, scratch=scratch),))
