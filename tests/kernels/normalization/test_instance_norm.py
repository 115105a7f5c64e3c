"""InstanceNormalization against float64."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.normalization.instance_norm import prepare_instance_norm
from tests.kernels import naive

LEVELS = [level.name for level in available_levels()]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "batch, channels, columns", [(1, 1, 1), (2, 3, 63), (1, 5, 200), (3, 2, 64), (0, 2, 3), (2, 2, 0)]
)
def test_instance_norm(level: str, batch: int, channels: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(columns)
    x = naive.placed(rng.normal(2, 3, (batch, channels, columns)).astype(np.float32))
    scale, bias = rng.normal(size=(2, channels)).astype(np.float32)
    y = naive.empty(x.shape, np.float32)
    run_routine(prepare_instance_norm(batch, columns, scale, bias, 1e-3), {"x": x, "y": y}, workers=2)
    if x.size:
        wide = x.astype(np.float64)
        centred = wide - wide.mean(2, keepdims=True)
        want = centred / np.sqrt(np.square(centred).mean(2, keepdims=True) + 1e-3) * scale[:, None] + bias[:, None]
        np.testing.assert_allclose(y, want, rtol=3e-6, atol=3e-6)
