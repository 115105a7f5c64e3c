"""Preparation of MaxPool and AveragePool of float32 images."""

from __future__ import annotations

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.pooling.codes import every_window_meets
from graphopt.kernels.tensors.windows import Image, Window

_FIELDS = (
    "mean", "whole", "height", "width", "channels", "out_height", "out_width", "kernel_h", "kernel_w", "stride_h",
    "stride_w", "dilation_h", "dilation_w", "top", "left", "bottom", "right",
)  # fmt: skip
POOL_FLOATS = Kernel(
    "graphopt.kernels.loops.pooling.floats:pool_floats", {"x": "f32*", "y": "f32*", **dict.fromkeys(_FIELDS, "i64")}
)


def prepare_float_pool(image: Image, window: Window, *, mean: bool, count_include_pad: bool = False) -> Routine:
    """ONNX MaxPool or (`mean`) AveragePool: float32 x image.shape → y window.output(image).shape.

    A mean is the float32 sum in the order of the taps divided by their number. Raises ValueError where a window would
    lie wholly in padding.
    """
    for axis, size in enumerate((image.height, image.width)):
        if not every_window_meets(window, axis, size):
            raise ValueError(f"a window of {window} lies wholly in the padding of {image}")
    out = window.output(image)
    numbers = (
        int(mean), int(count_include_pad), image.height, image.width, image.channels, out.height, out.width,
        *window.kernel, *window.strides, *window.dilations, *window.pads,
    )  # fmt: skip
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y"), **dict(zip(_FIELDS, numbers, strict=True))}
    tiles = out.batch * out.height if out.width and out.channels else 0
    return Routine((Step(POOL_FLOATS, arguments, tiles),))
