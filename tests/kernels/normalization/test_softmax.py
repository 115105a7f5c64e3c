"""Softmax of codes against the three operators: exact where no tie is near, never more than one code away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.normalization.softmax import prepare_float_softmax, prepare_softmax
from graphopt.kernels.tensors.quantization import Quantization
from tests.kernels import naive

LEVELS = [level.name for level in available_levels()]


def check(rows: int, columns: int, x: Quantization, y: Quantization, codes: naive.Array, workers: int) -> None:
    out = naive.empty(codes.shape, y.dtype)
    run_routine(prepare_softmax(rows, columns, x, y), {"x": naive.placed(codes), "y": out}, workers=workers)
    real = (codes.astype(np.float64) - x.zero_point) * x.scale
    powers = np.exp(real - real.max(1, keepdims=True))
    steps = powers / powers.sum(1, keepdims=True) / y.scale
    want = np.clip(np.rint(steps) + y.zero_point, y.low, y.high)
    differ = out != want
    assert np.all(np.abs(out.astype(int) - want)[differ] == 1)
    assert np.all(np.abs(np.abs(steps - np.floor(steps)) - 0.5)[differ] < 2e-6 * np.maximum(1, steps[differ]))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.sampled_from([1, 2, 3, 7, 64, 127, 128, 129, 255, 400, 1000]),
    signed=st.tuples(st.booleans(), st.booleans()), style=st.sampled_from(["uniform", "equal", "extreme", "narrow"]),
    scale=st.sampled_from([1e-4, 0.02, 0.2, 3.0]), zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_softmax(
    level: str, rows: int, columns: int, signed: tuple[bool, bool], style: str, scale: float, zeros: tuple[int, int],
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = Quantization(scale, zeros[0] - (128 if signed[0] else 0), signed[0])
    y = Quantization(rng.choice([1 / 256, 1 / 127, 1e-5]), zeros[1] - (128 if signed[1] else 0), signed[1])
    shape = (rows, columns)
    codes = {
        "uniform": rng.integers(x.low, x.high + 1, shape), "equal": np.full(shape, x.high),
        "extreme": rng.choice([x.low, x.high], shape), "narrow": rng.integers(-4, 4, shape) + x.low + 9,
    }[style]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHOPT_ISA", level)
        check(rows, columns, x, y, codes.astype(x.dtype), 1 + seed % 2)


def test_nothing_to_do() -> None:
    q = Quantization(0.1, 0)
    assert prepare_softmax(0, 5, q, q).steps == ()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.sampled_from([1, 2, 63, 64, 65, 200]), scale=st.sampled_from([0.01, 1, 50]),
    masked=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@example(rows=2, columns=63, scale=50, masked=False, seed=471)  # 50 below the largest
def test_softmax_of_floats(rows: int, columns: int, scale: float, masked: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, scale, (rows, columns)).astype(np.float32)
    if masked:
        x[rng.random(x.shape) < 0.3] = -np.inf
        x[:, 0] = np.where(np.isinf(x).all(1), 1, x[:, 0])
    y = naive.empty(x.shape, np.float32)
    run_routine(prepare_float_softmax(rows, columns), {"x": naive.placed(x), "y": y}, workers=1 + seed % 2)
    powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, powers / powers.sum(1, keepdims=True), rtol=2e-6, atol=1e-30)


def test_rows_that_are_not_numbers() -> None:
    x = np.zeros((3, 70), np.float32)
    x[0, 69], x[1] = np.nan, -np.inf
    y = naive.empty(x.shape, np.float32)
    run_routine(prepare_float_softmax(3, 70), {"x": naive.placed(x), "y": y})
    assert np.isnan(y[:2]).all()
    np.testing.assert_allclose(y[2], 1 / 70, rtol=1e-6)
