"""Conversion of float16 to float32, which numpy does one by one."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import Buffer, Routine, Step, run_routine

WIDENED = 1 << 15
"""Numbers of a tile, equal to that of `kernels.loops.weights.halves`."""
WIDEN = Kernel("graphopt.kernels.loops.weights.halves:widen", {"x": "u16*", "y": "i32*", "count": "i64"})


def widened(array: Array, workers: int = 1) -> Array:
    """A float16 array of any shape, converted to a contiguous float32 array."""
    array = np.ascontiguousarray(array)
    wide = np.empty(array.shape, np.float32)
    if not array.size:
        return wide
    tiles = -(-array.size // WIDENED)
    step = Step(WIDEN, {"x": Buffer("x"), "y": Buffer("y"), "count": array.size}, tiles=tiles)
    run_routine(Routine((step,)), {"x": array, "y": wide}, workers=workers)
    return wide
