"""Depthwise convolution against the operator's definition, at every level this CPU has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.products.depthwise import prepare_depthwise
from graphopt.kernels.tensors.windows import Image, Window
from tests.kernels import naive
from tests.kernels.naive import Array

LEVELS = [level.name for level in available_levels()]


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def depthwise(x: Array, w: Array, window: Window, scale: Array, x_zero: int, bias: Array, y_zero: int, dtype: type,
              clamp: tuple[int, int] | None, table: Array | None) -> Array:  # fmt: skip
    """QLinearConv with one group per input channel, NHWC, in int64."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.strides, window.dilations
    top, left, bottom, right = window.pads
    repeated = np.repeat(x.astype(np.int64) - x_zero, len(w) // x.shape[3], axis=3)
    padded = np.pad(repeated, ((0, 0), (top, bottom), (left, right), (0, 0)))
    height, width = window.output_size(0, x.shape[1]), window.output_size(1, x.shape[2])
    total = np.zeros((x.shape[0], height, width, len(w)), np.int64) + bias
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (height - 1) * sh + 1, sh)
            total += padded[:, rows, j * dw : j * dw + (width - 1) * sw + 1 : sw] * w[:, i, j].astype(np.int64)
    info = np.iinfo(dtype)
    low, high = (info.min, info.max) if clamp is None else clamp
    value = np.rint(total.astype(np.float32) * scale)
    y: Array = (np.clip(value, low - y_zero, high - y_zero).astype(np.int64) + y_zero).astype(dtype)
    return y if table is None else table[y.view(np.uint8)]


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.sampled_from([1, 3, 8, 16, 24, 40, 64, 97]),
    multiplier=st.sampled_from([1, 1, 1, 2]),
    kernel=st.sampled_from([(3, 3), (3, 3), (5, 5), (1, 3), (1, 5), (2, 4), (7, 1), (7, 7)]),
    strides=pairs(1, 3),
    dilations=st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    size=pairs(1, 13),
    x_signed=st.booleans(),
    y_signed=st.booleans(),
    wide=st.booleans(),
    extreme=st.booleans(),
    mapped=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_depthwise_equals_the_operator(
    level: str, monkeypatch: pytest.MonkeyPatch, channels: int, multiplier: int, kernel: tuple[int, int],
    strides: tuple[int, int], dilations: tuple[int, int], pads: tuple[int, int, int, int], size: tuple[int, int],
    x_signed: bool, y_signed: bool, wide: bool, extreme: bool, mapped: bool, seed: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(seed)
    window = Window(kernel, strides, dilations, pads)
    image = Image(2, *size, channels)
    if window.output(image).size == 0:
        return
    x_type, y_type = (np.int8 if signed else np.uint8 for signed in (x_signed, y_signed))
    low, high = np.iinfo(x_type).min, np.iinfo(x_type).max
    outputs = channels * multiplier
    x = rng.integers(low, high + 1, image.shape).astype(x_type)
    w = rng.integers(0 if wide else -128, 256 if wide else 128, (outputs, *kernel))
    w = w.astype(np.uint8 if wide else np.int8)
    if extreme:
        x[:], w[:] = high, w.dtype.type(255 if wide else -128)
    w_zero = rng.integers(0, 256, outputs) if wide else np.zeros(outputs, np.int64)
    x_zero = int(rng.integers(low, high + 1))
    y_zero = int(rng.integers(np.iinfo(y_type).min, np.iinfo(y_type).max + 1))
    scale = rng.uniform(1e-4, 5e-3, outputs).astype(np.float32)
    bias = rng.integers(-9999, 9999, outputs)
    clamp = None if seed % 2 else (max(y_zero, np.iinfo(y_type).min), y_zero + 5 if y_zero < 100 else y_zero)
    table = rng.integers(0, 256, 256).astype(np.uint8) if mapped else None
    routine = prepare_depthwise(
        image, window, w, scale, x_zero_point=x_zero, x_signed=x_signed, weight_zero_point=w_zero, bias=bias,
        y_zero_point=y_zero, y_signed=y_signed, clamp=clamp, table=table,
    )  # fmt: skip
    centred = w.astype(np.int64) - w_zero[:, None, None]
    expected = depthwise(x, centred, window, scale, x_zero, bias, y_zero, y_type, clamp, table)
    y = naive.empty(expected.shape, expected.dtype)
    run_routine(routine, {"x": naive.placed(x), "y": y}, workers=1 + seed % 2)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kernel, width", [(7, 4), (7, 5), (9, 5), (9, 7), (5, 3)])
def test_images_narrower_than_the_window(level: str, monkeypatch: pytest.MonkeyPatch, kernel: int, width: int) -> None:
    """The columns that a run reads anew lay outside on the right where the window was wider than the image."""
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(kernel)
    window, image = Window((kernel, kernel), pads=(kernel // 2,) * 4), Image(1, 6, width, 16)
    x = rng.integers(0, 256, image.shape).astype(np.uint8)
    w = rng.integers(-128, 128, (16, kernel, kernel)).astype(np.int8)
    scale, none = np.full(16, 1e-3, np.float32), np.zeros(16, np.int64)
    routine = prepare_depthwise(image, window, w, scale, x_zero_point=9)
    y = naive.empty(image.shape, np.uint8)
    run_routine(routine, {"x": naive.placed(x), "y": y})
    np.testing.assert_array_equal(y, depthwise(x, w, window, scale, 9, none, 0, np.uint8, None, None))


def test_shapes_that_disagree_are_refused() -> None:
    image, window = Image(1, 8, 8, 4), Window((3, 3))
    with pytest.raises(ValueError, match="do not fit"):
        prepare_depthwise(image, window, np.zeros((6, 3, 3), np.int8), np.ones(6), x_zero_point=0)
    with pytest.raises(ValueError, match="must have 4 entries"):
        prepare_depthwise(image, window, np.zeros((4, 3, 3), np.int8), np.ones(3), x_zero_point=0)
    with pytest.raises(ValueError, match="positive"):
        Window((0, 3))
