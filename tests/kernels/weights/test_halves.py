"""float16 in float32 against numpy, for every number that there is."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.weights.halves import WIDENED, widened


def test_every_number() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(widened(halves, workers=2), halves.astype(np.float32))


def test_shapes_and_sizes() -> None:
    halves = np.random.default_rng(0).standard_normal((3, 2, WIDENED + 5)).astype(np.float16)
    for array in (halves, halves[:, 1, ::3], halves[:0], np.float16(-2.5)):
        wide = widened(array)
        assert wide.dtype == np.float32
        np.testing.assert_array_equal(wide, np.asarray(array, np.float32))
