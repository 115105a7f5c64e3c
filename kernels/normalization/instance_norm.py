"""Preparation of InstanceNormalization."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step

_SCRATCH = 256  # a float32 for each of 64 lanes
INSTANCE_NORM = Kernel(
    "graphopt.kernels.loops.normalization.instance_norm:instance_norm",
    {
        "x": "i64", "y": "i64", "channels": "i64", "columns": "i64", "scale": "f32*", "bias": "f32*", "epsilon": "f32",
        "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip


def prepare_instance_norm(batch: int, columns: int, scale: Array, bias: Array, epsilon: float) -> Routine:
    """ONNX InstanceNormalization: float32 x [batch, channels, columns] → y; scale and bias: float32 [channels].

    Mean and variance are two passes of 64 partial sums each, so that results differ from another order of summation by
    a few units in the last place.
    """
    channels = len(scale)
    if batch * channels * columns == 0:
        return Routine(())
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "channels": channels, "columns": columns,
        "scale": np.ascontiguousarray(scale, np.float32), "bias": np.ascontiguousarray(bias, np.float32),
        "epsilon": epsilon, "scratch": SCRATCH, "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    grain = max(1, 8192 // columns)
    return Routine((Step(INSTANCE_NORM, arguments, tiles=batch * channels, grain=grain, scratch=_SCRATCH),))
