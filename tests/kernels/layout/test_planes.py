"""Borders: conversion and rearrangement in one pass equal conversion, then numpy's transposition."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.kernels import run_routine
from graphopt.kernels.layout.planes import (
    prepare_dequantize_planes,
    prepare_quantize_line_planes,
    prepare_quantize_planes,
)
from graphopt.kernels.tensors.quantization import Quantization
from tests.kernels import naive


@pytest.mark.parametrize("sizes", [(1, 3, 50), (2, 1, 1025), (3, 17, 512), (1, 64, 7)])
@pytest.mark.parametrize("codes", [Quantization(0.05, 120), Quantization(0.01, -3, True)])
def test_both_ways(sizes: tuple[int, int, int], codes: Quantization) -> None:
    rng = np.random.default_rng(1)
    x = naive.placed(rng.normal(0, 3, sizes).astype(np.float32))
    x.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, 0.5 * codes.scale]
    want = codes.quantize(x).transpose(0, 2, 1)
    y = naive.empty(want.shape, codes.dtype)
    run_routine(prepare_quantize_planes(*sizes, codes), {"x": x, "y": y}, workers=2)
    assert np.array_equal(y, want)
    z = naive.empty(sizes, np.float32)
    run_routine(prepare_dequantize_planes(*sizes, codes), {"x": y, "y": z})
    assert np.array_equal(z, codes.dequantize(y).transpose(0, 2, 1))


@pytest.mark.parametrize("sizes", [(1, 3, 50), (2, 1, 1025), (3, 17, 512), (0, 4, 9), (1, 5, 0)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_lines_of_each_plane(sizes: tuple[int, int, int], dtype: type) -> None:
    images, channels, pixels = sizes
    rng = np.random.default_rng(1)
    x = naive.placed(rng.normal(0, 3, sizes).astype(np.float32))
    x.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, 0.0][: x.size]
    slope, shift, scale = (rng.uniform(0.1, 1, channels).astype(np.float32) for _ in range(3))
    zero = rng.integers(-9, 9, channels).astype(np.float32)
    low, high = (-100 - zero, 90 - zero) if dtype is np.int8 else (10 - zero, 200 - zero)
    numbers = np.stack([slope, shift, scale, zero, low, high]).astype(np.float32)
    y = naive.empty((images, pixels, channels), dtype)
    run_routine(prepare_quantize_line_planes(images, pixels, numbers), {"x": x, "y": y}, workers=2)
    with np.errstate(invalid="ignore"):
        steps = np.rint((x.transpose(0, 2, 1) * slope + shift) / scale)
    want = np.clip(np.where(np.isnan(steps), 0, steps), numbers[4], numbers[5]) + zero
    np.testing.assert_array_equal(y, want.astype(dtype))
