"""Float arithmetic, float tables and tables per channel against numpy, bit for bit; products and Gelu to rounding."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.core.levels import Level
from graphopt.kernels.elementwise.floats import SWAPPED, FloatOp, prepare_float_binary, prepare_gelu
from graphopt.kernels.elementwise.tables import prepare_channel_table, prepare_float_table
from graphopt.kernels.products.float_product import prepare_float_product
from graphopt.kernels.products.tiles import Strides
from tests.kernels import naive
from tests.kernels.elementwise.test_codes import SHAPES

LEVELS = [level.name for level in available_levels()]
FUNCTIONS = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "prelu": lambda a, b: np.where(a > 0, a, a * b),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(sorted(FUNCTIONS)), shapes=st.sampled_from(SHAPES),
    constant=st.booleans(), swapped=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_arithmetic(
    op: FloatOp, shapes: tuple[tuple[int, ...], tuple[int, ...]], constant: bool, swapped: bool, seed: int
) -> None:
    swapped = swapped and op in SWAPPED
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    y = naive.empty(a.shape, np.float32)
    routine = prepare_float_binary(SWAPPED[op] if swapped else op, a.shape, b.shape, b if constant else None)
    run_routine(routine, {"a": naive.placed(a), "b": naive.placed(b), "y": y}, workers=1 + seed % 2)
    np.testing.assert_array_equal(y, FUNCTIONS[op](b, a) if swapped else FUNCTIONS[op](a, b))


def test_only_one_run_broadcasts() -> None:
    with pytest.raises(ValueError, match="more than one run"):
        prepare_float_binary("add", (2, 3, 4, 5), (2, 1, 4, 1))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=20, deadline=None)
@given(
    outer=st.integers(0, 5), channels=st.sampled_from([1, 3, 63, 64, 65, 130]), inner=st.sampled_from([1, 2, 65, 400]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_tables_per_channel(level: str, outer: int, channels: int, inner: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, 256, (channels, 256)).astype(np.uint8)
    x = rng.integers(0, 256, (outer, channels, inner)).astype(np.uint8)
    y = naive.empty(x.shape, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHOPT_ISA", level)
        run_routine(prepare_channel_table(outer, tables, inner), {"x": naive.placed(x), "y": y}, workers=1 + seed % 2)
    np.testing.assert_array_equal(y, tables[np.arange(channels)[:, None], x])


def test_tables_have_256_entries() -> None:
    with pytest.raises(ValueError, match="one byte"):
        prepare_channel_table(1, np.zeros((3, 255), np.uint8), 1)


def test_float_table() -> None:
    rng = np.random.default_rng(0)
    table, x = rng.normal(size=256).astype(np.float32), rng.integers(0, 256, 5000).astype(np.uint8)
    y = naive.empty(x.shape, np.float32)
    run_routine(prepare_float_table(5000, table), {"x": naive.placed(x), "y": y}, workers=2)
    np.testing.assert_array_equal(y, table[x])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 9000), seed=st.integers(0, 99))
def test_gelu(count: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(0, 3, count).astype(np.float32)
    x[: min(count, 6)] = np.array([0, np.inf, -np.inf, np.nan, 1e30, -1e-20], np.float32)[:count]
    y = naive.empty(x.shape, np.float32)
    run_routine(prepare_gelu(count, 0.5**0.5, 0.5, 0.5), {"x": naive.placed(x), "y": y}, workers=2)
    wide = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        want = wide * (0.5 + 0.5 * np.vectorize(erf, otypes=[float])(wide * 0.5**0.5))
    np.testing.assert_allclose(y[np.isfinite(want)], want[np.isfinite(want)], rtol=1e-6, atol=2e-6)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(want))


@pytest.mark.parametrize("level", available_levels(), ids=LEVELS)
@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([(1, 1), (1, 3), (2, 2)]), rows=st.sampled_from([1, 5, 8, 17, 65]),
    depth=st.sampled_from([1, 3, 32, 100]), channels=st.sampled_from([1, 15, 16, 17, 33, 64]), merged=st.booleans(),
    transposed=st.booleans(), workers=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_float_products(
    level: Level, batch: tuple[int, int], rows: int, depth: int, channels: int, merged: bool, transposed: bool,
    workers: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    (outer, inner), m, k, n = batch, rows, depth, channels
    a = rng.normal(size=(outer, inner, m, k)).astype(np.float32)
    b = rng.normal(size=(outer, inner, k, n)).astype(np.float32)
    stored_a, at_a = a, Strides(inner * m * k, m * k, k, 1)
    y, at_y = naive.empty((outer, inner, m, n), np.float32), Strides(inner * m * n, m * n, n, 1)
    if merged:
        stored_a, at_a = a.transpose(0, 2, 1, 3), Strides(m * inner * k, k, inner * k, 1)
        y, at_y = naive.empty((outer, m, inner, n), np.float32), Strides(m * inner * n, n, inner * n, 1)
    stored_b, at_b = b, Strides(inner * k * n, k * n, n, 1)
    if transposed:
        stored_b, at_b = b.transpose(0, 1, 3, 2), Strides(inner * k * n, k * n, 1, k)
    routine = prepare_float_product(batch, (m, k, n), (at_a, at_b, at_y), level=level)
    run_routine(routine, {"a": naive.placed(stored_a), "b": naive.placed(stored_b), "y": y}, workers=workers)
    found = y.transpose(0, 2, 1, 3) if merged else y
    bound = np.abs(a).astype(np.float64) @ np.abs(b)
    assert np.all(np.abs(found - a.astype(np.float64) @ b) <= 1e-7 * (k + 2) * bound)
