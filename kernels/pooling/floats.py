"""Preparation of MaxPool and AveragePool of float32 images."""

from __future__ import annotations

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.windows import Image, Window, WindowRecord

POOL_FLOATS = Kernel(
    "graphopt.kernels.loops.pooling.floats:pool_floats",
    {"x": "f32*", "y": "f32*", "mean": "i64", "count_padding": "i64", "window": WindowRecord},
)


def prepare_float_pool(image: Image, window: Window, *, mean: bool, count_include_pad: bool = False) -> Routine:
    """ONNX MaxPool or (`mean`) AveragePool: float32 x image.shape → y window.output(image).shape.

    A mean is the float32 sum in the order of the taps divided by their number. Raises ValueError where a window would
    lie wholly in padding.
    """
    window.check_covers(image)
    out = window.output(image)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "mean": int(mean), "count_padding": int(count_include_pad),
        "window": window.record(image),
    }  # fmt: skip
    tiles = out.batch * out.height if out.width and out.channels else 0
    return Routine((Step(POOL_FLOATS, arguments, tiles),))
