"""LocalResponseNormalization of codes against its definition in float64: one code apart at most, and only at ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import run_routine
from graphopt.kernels.normalization.lrn import MAX_SIZE, prepare_lrn
from graphopt.kernels.tensors.quantization import Quantization
from tests.kernels import naive


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.integers(1, 9), channels=st.sampled_from([1, 2, 3, 15, 16, 17, 64, 100]),
    size=st.sampled_from([1, 2, 3, 5, 8]), beta=st.sampled_from([0.75, 0.5, 1.0]), alpha=st.sampled_from([1e-4, 0.5]),
    signed=st.tuples(st.booleans(), st.booleans()), zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    extreme=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_lrn(
    pixels: int, channels: int, size: int, beta: float, alpha: float, signed: tuple[bool, bool],
    zeros: tuple[int, int], extreme: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x, y = (
        Quantization(scale, zero - (128 if s else 0), s) for scale, zero, s in zip((0.3, 0.11), zeros, signed)
    )  # fmt: skip
    shape = (pixels, channels)
    codes = rng.choice([x.low, x.high], shape) if extreme else rng.integers(x.low, x.high + 1, shape)
    real = (codes.astype(np.float64) - x.zero_point) * x.scale
    sums = np.stack(
        [
            np.square(real[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]).sum(1)
            for c in range(channels)
        ], 1,
    )  # fmt: skip
    steps = real / (1.5 + alpha / size * sums) ** beta / y.scale
    want = np.clip(np.rint(steps) + y.zero_point, y.low, y.high)
    out = naive.empty(codes.shape, y.dtype)
    routine = prepare_lrn(pixels, channels, size, alpha, beta, 1.5, x, y)
    run_routine(routine, {"x": naive.placed(codes.astype(x.dtype)), "y": out}, workers=1 + seed % 2)
    differ = out != want
    assert np.all(np.abs(out.astype(int) - want)[differ] == 1)
    assert np.all(np.abs(np.abs(steps - np.floor(steps)) - 0.5)[differ] < 3e-6 * np.maximum(1, np.abs(steps[differ])))


def test_declines_what_could_overflow() -> None:
    q = Quantization(0.1, 0)
    with pytest.raises(ValueError, match="window"):
        prepare_lrn(1, 4, MAX_SIZE + 1, 1e-4, 0.75, 1.0, q, q)
    assert prepare_lrn(0, 4, 5, 1e-4, 0.75, 1.0, q, q).steps == ()
