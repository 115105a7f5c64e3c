"""Dynamic quantization and its matrix product equal the operators, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import run_routine
from graphopt.kernels.core.levels import Level, available_levels
from graphopt.kernels.products.dynamic_matmul import prepare_dynamic_matmul, prepare_dynamic_quantize
from tests.kernels import naive

LEVELS = available_levels()


def dynamic_quantize(x: naive.Array) -> tuple[naive.Array, np.float32, int]:
    """DynamicQuantizeLinear as the specification writes it; NaN passed over."""
    known = x[~np.isnan(x)]
    least, greatest = np.float32(min(known.min(initial=0), 0)), np.float32(max(known.max(initial=0), 0))
    scale = np.float32(np.float32(greatest - least) / np.float32(255))
    scale = scale if scale > 0 else np.float32(1)
    zero = int(np.clip(np.rint(np.float32(-least / scale)), 0, 255))
    return naive.quantize(x, scale, zero, np.uint8), scale, zero


@pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), depth=st.integers(1, 200), channels=st.integers(1, 70),
    unsigned=st.booleans(), shift=st.floats(-3, 3), workers=st.integers(1, 2), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_dynamic_matmul(
    level: Level, rows: int, depth: int, channels: int, unsigned: bool, shift: float, workers: int,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = (rng.normal(shift, 1, (rows, depth)) * rng.uniform(0.1, 10)).astype(np.float32)
    w = rng.integers(-128, 128, (depth, channels)).astype(np.int8)
    zero = 0
    if unsigned:
        w, zero = (w.astype(np.int32) + 128).astype(np.uint8), int(rng.integers(0, 256))
    scale = rng.uniform(0.01, 0.1, channels).astype(np.float32)
    bias = rng.normal(size=channels).astype(np.float32)
    y = naive.empty((rows, channels), np.float32)
    routine = prepare_dynamic_matmul(rows, w, scale, bias=bias, weight_zero_point=zero, level=level)
    run_routine(routine, {"x": naive.placed(x), "y": y}, workers=workers)
    q, x_scale, x_zero = dynamic_quantize(x)
    sums = (q.astype(np.int32) - x_zero) @ (w.astype(np.int32) - zero)
    np.testing.assert_array_equal(y, sums.astype(np.float32) * (x_scale * scale) + bias)


@pytest.mark.parametrize("values", [[np.nan, 1, -1, 0.5], [0, 0, 0, 0]])
def test_nan_and_zeros_are_no_trouble(values: list[float]) -> None:
    x = naive.placed(np.array(values, np.float32).reshape(2, 2))
    buffers = {"x": x, "y": naive.empty((2, 2), np.uint8)}
    buffers |= {"row_scales": naive.empty((2,), np.float32), "row_zeros": naive.empty((2,), np.int32)}
    run_routine(prepare_dynamic_quantize(2, 2), buffers)
    q, scale, zero = dynamic_quantize(x)
    np.testing.assert_array_equal(buffers["y"], q)
    assert np.all(buffers["row_scales"] == scale)
    assert np.all(buffers["row_zeros"] == zero)


@pytest.mark.parametrize(("rows", "columns"), [(300, 70), (257, 100), (3, 20000), (1000, 1)])
@pytest.mark.parametrize("workers", [1, 2])
def test_extremes_are_those_of_all_lines(rows: int, columns: int, workers: int) -> None:
    """Short rows are searched several at a time, wherever the extremes lie."""
    x = np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.float32)
    for at in ((0, 0), (-1, -1), (rows // 2, columns // 2)):
        held = naive.placed(x)
        held[at] = 50
        buffers = {"x": held, "y": naive.empty((rows, columns), np.uint8)}
        buffers |= {"row_scales": naive.empty((rows,), np.float32), "row_zeros": naive.empty((rows,), np.int32)}
        run_routine(prepare_dynamic_quantize(rows, columns), buffers, workers=workers)
        q, scale, zero = dynamic_quantize(held)
        np.testing.assert_array_equal(buffers["y"], q)
        assert np.all(buffers["row_scales"] == scale) and np.all(buffers["row_zeros"] == zero)
