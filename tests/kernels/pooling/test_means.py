"""Means over one axis against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.pooling.floats import prepare_mean
from tests.kernels import naive

LEVELS = [level.name for level in available_levels()]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 200, 1), (5, 63, 1), (2, 49, 37), (0, 4, 2), (3, 4, 0), (4, 1, 65)])
def test_means(level: str, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    x = naive.placed(np.random.default_rng(1).normal(1, 2, sizes).astype(np.float32))
    y = naive.empty((sizes[0], sizes[2]), np.float32)
    run_routine(prepare_mean(*sizes), {"x": x, "y": y}, workers=2)
    np.testing.assert_allclose(y, x.astype(np.float64).mean(1), rtol=2e-6, atol=1e-6)
    exact = naive.placed(np.random.default_rng(2).integers(-99, 99, sizes).astype(np.float32))
    run_routine(prepare_mean(*sizes), {"x": exact, "y": y}, workers=2)
    np.testing.assert_array_equal(y, exact.sum(1) / np.float32(sizes[1]))  # sums of integers are exact
