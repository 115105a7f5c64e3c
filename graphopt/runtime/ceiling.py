"""The machine's measured ceiling: the most multiply-accumulates a second that one core reaches on a fitting product."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from ..kernels import aligned_empty, bind_routine
from ..kernels.epilogue import Accumulate
from ..kernels.product import Activations, prepare_matmul


@cache
def product_ceiling() -> float:
    """GMAC/s of a 192 × 256 × 256 product on 7-bit weights, all of it in the nearest caches; the best of many runs."""
    rows, depth, channels = 192, 256, 256
    weights = np.random.default_rng(0).integers(-64, 64, (depth, channels)).astype(np.int8)
    routine = prepare_matmul(rows, weights, Activations(np.uint8), Accumulate())
    buffers = {"x": aligned_empty(rows * depth), "y": aligned_empty(rows * channels * 4)}
    buffers["x"][:] = np.random.default_rng(1).integers(0, 256, rows * depth)
    program, _kept = bind_routine(routine, buffers)
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(8):
            program.run_worker(0)
        best = min(best, (time.perf_counter() - start) / 8)
    return rows * depth * channels / best / 1e9
