"""Preparation of MaxPool and AveragePool of float32 images, and of means over an axis."""

from __future__ import annotations

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.windows import Image, Window, WindowRecord

POOL_FLOATS = Kernel(
    "graphopt.kernels.loops.pooling.floats:pool_floats",
    {"x": "f32*", "y": "f32*", "mean": "i64", "count_padding": "i64", "window": WindowRecord},
)
_SCRATCH = 256  # bytes: a float32 for each of 64 lanes
MEAN = Kernel(
    "graphopt.kernels.loops.pooling.floats:mean",
    {"x": "f32*", "y": "f32*", "count": "i64", "inner": "i64", "scratch": "i64", "scratch_bytes": "i64"},
)


def prepare_mean(outer: int, count: int, inner: int) -> Routine:
    """y[o, i] = mean of x[o, :, i] of float32 [outer, count, inner]; NaN where count is 0.

    Contiguous rows (inner 1) are summed in 64 partial sums, others in order.
    """
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "count": count, "inner": inner, "scratch": SCRATCH,
        "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    grain = max(1, 4096 // max(1, count * inner))
    return Routine((Step(MEAN, arguments, outer if inner else 0, grain=grain, scratch=_SCRATCH),))


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
