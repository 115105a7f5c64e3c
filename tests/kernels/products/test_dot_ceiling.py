"""The measured ceiling is one: no product is faster, and the fastest comes near."""

from __future__ import annotations

import time

import numpy as np
import pytest

from graphopt.kernels import Level, available_levels, bind_routine
from graphopt.kernels.products.dot_ceiling import peak_rate
from graphopt.kernels.products.epilogue import Accumulate
from graphopt.kernels.products.matmul_conv import Activations, prepare_matmul
from tests.kernels import naive


@pytest.mark.parametrize("level", available_levels(), ids=lambda level: level.name)
def test_products_stay_below_the_ceiling(level: Level) -> None:
    rows, depth, channels = 192, 256, 256
    weights = np.random.default_rng(0).integers(-64, 64, (depth, channels)).astype(np.int8)
    x = naive.placed(np.random.default_rng(1).integers(0, 256, (rows, depth)).astype(np.uint8))
    routine = prepare_matmul(rows, weights, Activations(np.uint8), Accumulate(), level=level)
    buffers = {"x": x, "y": naive.empty((rows, channels), np.int32)}  # which the program does not keep alive
    program, _kept = bind_routine(routine, buffers)
    peak_rate.cache_clear()
    ceiling, best = peak_rate(level), float("inf")
    for _ in range(60):
        start = time.perf_counter()
        program.run_worker(0)
        best = min(best, time.perf_counter() - start)
    rate = rows * depth * channels / best / 1e9
    assert 0.3 * ceiling < rate < 1.15 * max(ceiling, peak_rate.__wrapped__(level))  # the clock may change between
