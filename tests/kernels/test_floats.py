"""Float arithmetic, float tables and tables per channel against numpy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.channel_table import prepare_channel_table, prepare_float_table
from graphopt.kernels.floats import SWAPPED, FloatOp, prepare_float_binary
from tests.kernels import naive
from tests.kernels.test_elementwise import SHAPES

LEVELS = [level.name for level in available_levels()]
FUNCTIONS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(["add", "subtract", "multiply", "divide"]), shapes=st.sampled_from(SHAPES),
    constant=st.booleans(), swapped=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_arithmetic(
    op: FloatOp, shapes: tuple[tuple[int, ...], tuple[int, ...]], constant: bool, swapped: bool, seed: int
) -> None:
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
