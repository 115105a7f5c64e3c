"""Steps that only move bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import Buffer, Routine, run_routine
from graphopt.kernels.layout.moves import (
    copy_rows_step,
    fill_rows_step,
    map_rows_step,
    prepare_channel_shuffle,
    prepare_resize_nearest,
)
from graphopt.kernels.tensors.quantization import Quantization
from graphopt.kernels.tensors.windows import Image
from tests.kernels import naive
from tests.kernels.naive import Array


def random_bytes(seed: int, *shape: int) -> Array:
    return naive.placed(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


def run(routine: Routine, shape: tuple[int, ...], **inputs: Any) -> Array:
    y = naive.empty(shape, np.uint8)
    run_routine(routine, {**inputs, "y": y}, workers=2)
    return y


@settings(deadline=None)
@given(rows=st.integers(0, 40), counts=st.lists(st.integers(1, 80), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_rows_are_joined_and_taken_apart(rows: int, counts: list[int], seed: int) -> None:
    """Concat and its inverse, Slice: copies of rows at strides."""
    inputs = [random_bytes(seed + i, rows, count) for i, count in enumerate(counts)]
    begins, total = np.cumsum(counts) - counts, sum(counts)
    y = naive.empty((rows, total), np.uint8)
    for x, begin, count in zip(inputs, begins, counts, strict=True):
        join = copy_rows_step(rows, count, Buffer("x"), Buffer("y", int(begin)), x_stride=count, y_stride=total)
        run_routine(Routine((join,)), {"x": x, "y": y}, workers=2)
    np.testing.assert_array_equal(y, np.concatenate(inputs, axis=1))
    for x, begin, count in zip(inputs, begins, counts, strict=True):
        take = copy_rows_step(rows, count, Buffer("x", int(begin)), Buffer("y"), x_stride=total, y_stride=count)
        np.testing.assert_array_equal(run(Routine((take,)), (rows, count), x=y), x)


def test_rows_are_mapped_at_strides() -> None:
    a, y = Quantization(0.1, 3), Quantization(0.07, -5, signed=True)
    x, out = random_bytes(0, 9, 70), naive.empty((9, 75), np.uint8)
    out[:] = 0
    step = map_rows_step(9, 70, a.requantization(y), Buffer("x"), Buffer("y", 5), x_stride=70, y_stride=75)
    run_routine(Routine((step,)), {"x": x, "y": out}, workers=2)
    expected = naive.quantize((x.astype(np.float32) - 3) * np.float32(0.1), 0.07, -5, np.int8)
    np.testing.assert_array_equal(out[:, 5:].view(np.int8), expected)
    assert not out[:, :5].any()


@settings(deadline=None)
@given(rows=st.integers(0, 30), count=st.integers(0, 40), gap=st.integers(0, 5), floats=st.booleans())
def test_rows_are_filled(rows: int, count: int, gap: int, floats: bool) -> None:
    y = naive.empty((rows, count + gap), np.float32 if floats else np.uint8)
    want = y.copy()
    want[:, :count] = 7.5 if floats else 200
    step = fill_rows_step(rows, count, 7.5 if floats else 200, Buffer("y"), y_stride=count + gap, itemsize=y.itemsize)
    run_routine(Routine((step,)), {"y": y}, workers=2)
    np.testing.assert_array_equal(y, want)


@settings(deadline=None)
@given(rows=st.integers(1, 30), groups=st.integers(1, 6), each=st.integers(1, 40))
def test_channel_shuffle(rows: int, groups: int, each: int) -> None:
    x = random_bytes(rows, rows, groups * each)
    expected = x.reshape(rows, groups, each).swapaxes(1, 2).reshape(rows, -1)
    np.testing.assert_array_equal(run(prepare_channel_shuffle(rows, groups * each, groups), x.shape, x=x), expected)


@settings(deadline=None)
@given(size=st.tuples(*[st.integers(1, 9)] * 4), factors=st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 2.0, 3.0])] * 2))
def test_resize_nearest(size: tuple[int, int, int, int], factors: tuple[float, float]) -> None:
    x = random_bytes(0, *size)
    rows, columns = (
        np.minimum(np.arange(int(length * factor)) // factor, length - 1).astype(np.int32)
        for length, factor in zip(size[1:3], factors, strict=True)
    )
    expected = x[:, rows][:, :, columns]
    np.testing.assert_array_equal(
        run(prepare_resize_nearest(Image(*size), rows, columns), expected.shape, x=x), expected
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        prepare_channel_shuffle(1, 10, 3)
    with pytest.raises(ValueError, match="indices"):
        prepare_resize_nearest(Image(1, 2, 2, 1), np.array([2]), np.array([0]))
