"""Lines that stand for tables of each channel give every code of the tables, and are refused where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.elementwise.proved_lines import ChannelTables, proved_lines
from graphopt.kernels.elementwise.tables import prepare_channel_lines, prepare_channel_table, prepare_quantize_lines
from graphopt.kernels.tensors.quantization import Quantization

LEVELS = [level.name for level in available_levels()]
SIGNED = [(False, False), (True, False), (False, True), (True, True)]


def normalized(channels: int, x: Quantization, y: Quantization, *, relu: bool = False, seed: int = 0) -> Any:
    """The float32 values of gamma · dequantize(x) + beta, their codes, and the quantized result's scale taken off."""
    rng = np.random.default_rng(seed)
    gamma, beta = rng.normal(0, 1, (channels, 1)).astype(np.float32), rng.normal(0, 1, (channels, 1)).astype(np.float32)
    values = x.dequantize(x.codes()) * gamma + beta
    if relu:
        values = np.maximum(values, np.float32(0))
    return values / np.float64(y.scale), y.quantize(values)


@pytest.mark.parametrize("x_signed, y_signed", SIGNED)
@pytest.mark.parametrize("relu", [False, True])
def test_every_code_of_normalized_channels(x_signed: bool, y_signed: bool, relu: bool) -> None:
    x, y = Quantization(0.031, 3, x_signed), Quantization(0.047, 7, y_signed)
    values, tables = normalized(300, x, y, relu=relu)
    lines = proved_lines(values, tables, x, y.zero_point)
    assert lines is not None
    made = x.codes().astype(np.float32) * lines[0][:, None] + lines[1][:, None]
    low, high = int(tables.min()) - y.zero_point, int(tables.max()) - y.zero_point
    np.testing.assert_array_equal(np.clip(np.rint(made), low, high) + y.zero_point, tables)
    assert len(np.unique(tables)) > 100


def test_a_curve_is_refused_and_constants_are_lines() -> None:
    x, y = Quantization(0.0313, 101), Quantization(0.0509, 100)
    curve = np.tanh(x.dequantize(x.codes()))[None]
    assert proved_lines(curve / y.scale, y.quantize(curve), x, y.zero_point) is None
    line = x.dequantize(x.codes())
    kinked = np.stack([line, np.where(line > 0, line, line * np.float32(0.3))])
    assert proved_lines(kinked / y.scale, y.quantize(kinked), x, y.zero_point) is None
    for level in (-1e6, 0.0, 0.21, 1e6):
        flat = np.stack([line, np.full(256, level, np.float32)])
        assert proved_lines(flat / y.scale, y.quantize(flat), x, y.zero_point) is not None
    unknown = np.stack([line, np.full(256, np.nan, np.float32)])
    assert proved_lines(unknown / y.scale, y.quantize(unknown), x, y.zero_point) is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows, channels", [(1, 1), (37, 5), (48, 24), (64, 33), (9, 700), (0, 8)])
def test_lines_and_tables_are_the_naive_look_up(
    level: str, rows: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    for x_signed, y_signed in SIGNED:
        x, y = Quantization(0.031, -9 if x_signed else 90, x_signed), Quantization(0.047, 7, y_signed)
        values, tables = normalized(channels, x, y, relu=y_signed, seed=rows)
        lines = proved_lines(values, tables, x, y.zero_point)
        assert lines is not None
        codes = np.random.default_rng(1).integers(0, 256, (rows, channels)).astype(np.uint8).view(x.dtype)
        want = tables[np.arange(channels), codes.view(np.uint8)]
        limits = int(tables.min()), int(tables.max())
        found, looked_up = np.full_like(want, 55), np.full_like(want, 55)
        run_routine(prepare_channel_lines(rows, lines, x, y, limits), {"x": codes, "y": found})
        run_routine(prepare_channel_table(rows, tables, 1), {"x": codes, "y": looked_up})
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(looked_up, want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "rows, channels, place, stride", [(37, 5, 3, 11), (48, 24, 0, 24), (9, 40, 24, 64), (0, 4, 0, 4)]
)
def test_rows_go_to_their_places(
    level: str, rows: int, channels: int, place: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From codes and from floats; the columns beside stay as they were."""
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(rows)
    x, y = Quantization(0.031, 90), Quantization(0.047, 7, signed=True)
    values, tables = normalized(channels, x, y)
    lines = proved_lines(values, tables, x, y.zero_point)
    assert lines is not None
    codes = rng.integers(0, 256, (rows, channels)).astype(np.uint8)
    found = np.full((rows, stride), 55, np.int8)
    limits = int(tables.min()), int(tables.max())
    run_routine(prepare_channel_lines(rows, lines, x, y, limits, place=place, stride=stride), {"x": codes, "y": found})
    want = np.full_like(found, 55)
    want[:, place : place + channels] = tables[np.arange(channels), codes]
    np.testing.assert_array_equal(found, want)

    floats = rng.normal(0, 3, (rows, channels)).astype(np.float32)
    floats[rows // 2 :, 0] = np.nan
    slope, shift = rng.normal(size=(2, channels)).astype(np.float32)
    scale, zero = rng.uniform(0.01, 0.2, channels).astype(np.float32), rng.integers(-9, 9, channels).astype(np.float32)
    numbers = np.stack([slope, shift, scale, zero, -100 - zero, 90 - zero]).astype(np.float32)
    run_routine(prepare_quantize_lines(rows, numbers, y, place=place, stride=stride), {"x": floats, "y": found})
    steps = np.rint((floats * slope + shift) / scale)
    want[:, place : place + channels] = np.clip(np.where(np.isnan(steps), 0, steps) + zero, -100, 90)
    np.testing.assert_array_equal(found, want)


def test_tables_are_computed_once_when_first_read() -> None:
    """Of values [channels, 256] with lines, and of one row without."""
    x, y = Quantization(0.031, 3), Quantization(0.047, 7)
    scaled, want = normalized(40, x, y)
    asked: list[int] = []

    def values() -> Any:
        asked.append(1)
        return (scaled * np.float64(y.scale)).astype(np.float32)

    tables = ChannelTables(40, values, x, y)
    assert len(tables) == 40 and not asked
    np.testing.assert_array_equal(tables.codes, want)
    np.testing.assert_array_equal(tables.lines, proved_lines(scaled, want, x, y.zero_point))  # type: ignore[arg-type]
    assert len(asked) == 1
    single = ChannelTables(1, lambda: x.dequantize(x.codes()), None, y)
    assert single.lines is None
    np.testing.assert_array_equal(single.codes, y.quantize(x.dequantize(x.codes()))[None])
