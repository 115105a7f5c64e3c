"""Transpositions equal numpy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphopt.kernels import run_routine
from graphopt.kernels.layout.permute import prepare_permute
from tests.kernels import naive

SHAPES = [
    (2, 3, 4, 5), (1, 7, 9), (4, 5), (2, 1, 3, 1, 4), (6,), (2, 40, 70), (3, 33, 65, 2), (0, 3), (2, 3, 2, 5, 3),
    (1, 3, 40, 13), (1, 3, 521),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_permutation(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = naive.placed(rng.integers(0, 256, shape).astype(np.uint8))
    for permutation in itertools.permutations(range(len(shape))):
        want = x.transpose(permutation)
        y = naive.empty(want.shape, np.uint8)
        run_routine(prepare_permute(shape, permutation), {"x": x, "y": y}, workers=2)
        assert np.array_equal(y, want), permutation


def test_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match="no permutation"):
        prepare_permute((2, 3), (0, 0))
