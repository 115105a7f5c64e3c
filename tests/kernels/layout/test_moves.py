"""Steps that only move bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.kernels import Routine, run_routine
from graphopt.kernels.layout.moves import (
    nearest_indices,
    prepare_channel_shuffle,
    prepare_concat,
    prepare_pad,
    prepare_resize_nearest,
    prepare_slice,
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


@given(rows=st.integers(0, 40), counts=st.lists(st.integers(1, 80), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_concat_and_its_slices(rows: int, counts: list[int], seed: int) -> None:
    inputs = {f"x{i}": random_bytes(seed + i, rows, count) for i, count in enumerate(counts)}
    y = run(prepare_concat(rows, counts), (rows, sum(counts)), **inputs)
    np.testing.assert_array_equal(y, np.concatenate(list(inputs.values()), axis=1))
    ends = np.cumsum(counts)
    for x, count, end in zip(inputs.values(), counts, ends, strict=True):
        part = run(prepare_slice(rows, int(ends[-1]), int(end - count), int(end)), (rows, count), x=y)
        np.testing.assert_array_equal(part, x)


def test_concat_requantizes() -> None:
    a, y = Quantization(0.1, 3), Quantization(0.07, -5, signed=True)
    first, second = random_bytes(0, 9, 70), random_bytes(1, 9, 5)
    out = run(prepare_concat(9, [70, 5], [a.requantization(y), None]), (9, 75), x0=first, x1=second)
    expected = naive.quantize((first.astype(np.float32) - 3) * np.float32(0.1), 0.07, -5, np.int8)
    np.testing.assert_array_equal(out[:, :70].view(np.int8), expected)
    np.testing.assert_array_equal(out[:, 70:], second)


@given(rows=st.integers(1, 30), groups=st.integers(1, 6), each=st.integers(1, 40))
def test_channel_shuffle(rows: int, groups: int, each: int) -> None:
    x = random_bytes(rows, rows, groups * each)
    expected = x.reshape(rows, groups, each).swapaxes(1, 2).reshape(rows, -1)
    np.testing.assert_array_equal(run(prepare_channel_shuffle(rows, groups * each, groups), x.shape, x=x), expected)


@given(size=st.tuples(*[st.integers(1, 9)] * 4), factors=st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 2.0, 3.0])] * 2))
def test_resize_nearest(size: tuple[int, int, int, int], factors: tuple[float, float]) -> None:
    x = random_bytes(0, *size)
    rows, columns = (
        nearest_indices(length, int(length * factor), factor) for length, factor in zip(size[1:3], factors, strict=True)
    )
    expected = x[:, rows][:, :, columns]
    np.testing.assert_array_equal(
        run(prepare_resize_nearest(Image(*size), rows, columns), expected.shape, x=x), expected
    )


@given(size=st.tuples(*[st.integers(1, 9)] * 4), pads=st.tuples(*[st.integers(0, 3)] * 4), value=st.integers(-128, 255))
def test_pad(size: tuple[int, int, int, int], pads: tuple[int, int, int, int], value: int) -> None:
    x = random_bytes(1, *size)
    widths = ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0))
    expected = np.pad(x, widths, constant_values=value & 0xFF)
    np.testing.assert_array_equal(run(prepare_pad(Image(*size), pads, value), expected.shape, x=x), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        prepare_channel_shuffle(1, 10, 3)
    with pytest.raises(ValueError, match="no slice"):
        prepare_slice(1, 4, 3, 5)
    with pytest.raises(ValueError, match="indices"):
        prepare_resize_nearest(Image(1, 2, 2, 1), np.array([2]), np.array([0]))
    with pytest.raises(ValueError, match="negative"):
        prepare_pad(Image(1, 2, 2, 1), (0, -1, 0, 0), 0)
