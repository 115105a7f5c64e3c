"""The measured peak rate of a level: a core's multiply-accumulates without loads or stores."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level
from graphopt.kernels.core.steps import Program, Step

_PEAK = Kernel(
    "graphopt.kernels.loops.products.dot_ceiling:peak", {"function": "i64", "operands": "i64", "count": "i64"}
)
_SUMS = 12  # independent, more than a dot product's latency times its throughput
_UNROLL = 32  # beginning a round anew takes two to three cycles
_COUNT = 4000  # rounds: long beside the resolution of the clock, short beside a time slice


@cache
def peak_rate(level: Level, seconds: float = 0.05) -> float:
    """GMAC/s of the level's dot product between registers on one core, the best of many short runs."""
    micro = MicroKernel("graphopt.kernels.micro.dot_ceiling:emit", (level.name, _SUMS, _UNROLL))
    operands = np.arange((_SUMS + 1) * level.lanes, dtype=np.int32)
    program = Program([(Step(_PEAK, {"function": micro, "operands": operands, "count": _COUNT}, tiles=1), {})])
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        program.run_worker(0)
        best = min(best, time.perf_counter() - start)
    return _COUNT * _UNROLL * _SUMS * 4 * level.lanes / best / 1e9
