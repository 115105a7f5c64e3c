"""Pools against the operators' definitions, at every level this CPU has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.pooling.codes import prepare_average_pool, prepare_max_pool
from graphopt.kernels.tensors.quantization import Quantization
from graphopt.kernels.tensors.windows import Image, Window
from tests.kernels import naive
from tests.kernels.naive import Array

LEVELS = [level.name for level in available_levels()]


def pooled(x: Array, window: Window, q: Quantization, y: Quantization, whole: bool, kind: str) -> Array:
    """MaxPool or QLinearAveragePool, window by window."""
    image = Image(*x.shape)
    out = np.zeros(window.output(image).shape, y.dtype)
    _, height, width, _ = x.shape
    top, left, bottom, right = window.pads
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            rows = i * window.strides[0] - top + np.arange(window.kernel[0]) * window.dilations[0]
            columns = j * window.strides[1] - left + np.arange(window.kernel[1]) * window.dilations[1]
            counted = int(np.sum(rows < height + bottom) * np.sum(columns < width + right))
            rows = rows[(rows >= 0) & (rows < height)]
            columns = columns[(columns >= 0) & (columns < width)]
            taps = x[:, rows][:, :, columns].reshape(x.shape[0], -1, x.shape[3])
            if kind == "max":
                out[:, i, j] = taps.max(1)
                continue
            count = counted if whole else taps.shape[1]
            total = (taps.astype(np.int64) - q.zero_point).sum(1)
            factor = np.float32(q.scale) / (np.float32(y.scale) * np.float32(count))
            value = np.rint(total.astype(np.float32) * factor)
            limited = np.clip(value, y.low - y.zero_point, y.high - y.zero_point).astype(int)
            out[:, i, j] = limited + y.zero_point
    return out


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["max", "mean", "mean", "global"]),
    channels=st.sampled_from([1, 3, 16, 40, 64, 113]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    ceil_mode=st.booleans(),
    whole=st.booleans(),
    signs=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**31),
)
def test_pools_equal_the_operators(
    level: str, monkeypatch: pytest.MonkeyPatch, kind: str, channels: int, kernel: tuple[int, int],
    strides: tuple[int, int], dilations: tuple[int, int], pads: tuple[int, int, int, int], size: tuple[int, int],
    ceil_mode: bool, whole: bool, signs: tuple[bool, bool], seed: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(seed)
    pads = tuple(min(pad, kernel[i % 2] - 1) for i, pad in enumerate(pads))  # type: ignore[assignment]
    window = Window(kernel, strides, dilations, pads, ceil_mode)
    if kind == "global":
        window = Window(size)
    image = Image(2, *size, channels)
    q = Quantization(float(rng.uniform(0.01, 0.1)), int(rng.integers(100)), signs[0])
    y = Quantization(float(rng.uniform(0.01, 0.1)), int(rng.integers(100)), signs[1])
    x = rng.integers(q.low, q.high + 1, image.shape).astype(q.dtype)
    if kind == "max":
        y, routine = q, prepare_max_pool(image, window, signed=q.signed)
    else:
        routine = prepare_average_pool(image, window, q, y, count_include_pad=whole)
    expected = pooled(x, window, q, y, whole, kind)
    out = naive.empty(expected.shape, expected.dtype)
    run_routine(routine, {"x": naive.placed(x), "y": out}, workers=1 + seed % 2)
    np.testing.assert_array_equal(out, expected)


def test_a_window_in_the_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="wholly in the padding"):
        prepare_max_pool(Image(1, 4, 4, 3), Window((2, 2), pads=(2, 0, 0, 0)))
