"""Preparation of tables and of lines for each channel, and of tables whose entries are float32."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array, aligned_copy
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.lookup import table_look_up
from graphopt.kernels.tensors.quantization import Quantization

_LOOPS = "graphopt.kernels.loops.elementwise.tables:"
_BLOCK = 64  # codes a step: a cache line
MAP_CHANNELS = Kernel(
    _LOOPS + "map_channels", {"x": "u8*", "y": "u8*", "rows": "i64", "channels": "i64", "tables": "u8*"}
)
MAP_PLANES = Kernel(
    _LOOPS + "map_planes", {"x": "u8*", "y": "u8*", "channels": "i64", "inner": "i64", "tables": "u8*", "lookup": "i64"}
)
_WIDE = 512  # elements of a row that hides the start of a vector loop; rows of fewer channels are joined up to this
MAP_FLOATS = Kernel(_LOOPS + "map_floats", {"x": "u8*", "y": "f32*", "count": "i64", "table": "f32*"})


def prepare_channel_table(outer: int, tables: Array, inner: int) -> Routine:
    """y[o, c, i] = tables[c, x[o, c, i]] for bytes [outer, channels, inner]; tables: one-byte [channels, 256].

    The second index is the code's bits read as u8. Raises ValueError for tables of another shape.
    """
    channels = len(tables)
    if tables.shape != (channels, 256) or tables.itemsize != 1:
        raise ValueError(f"tables are one byte [channels, 256], got {tables.dtype} {tables.shape}")
    if outer * channels * inner == 0:
        return Routine(())
    stored = aligned_copy(tables)
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y")}
    if inner == 1:
        arguments |= {"rows": outer, "channels": channels, "tables": stored}
        return Routine((Step(MAP_CHANNELS, arguments, tiles=-(-channels // _BLOCK)),), {}, stored.nbytes)
    arguments |= {"channels": channels, "inner": inner, "tables": stored, "lookup": table_look_up()}
    grain = max(1, 4096 // inner)
    return Routine((Step(MAP_PLANES, arguments, tiles=outer * channels, grain=grain),), {}, stored.nbytes)


def prepare_channel_lines(
    rows: int, lines: Array, x: Quantization, y: Quantization, limits: tuple[int, int], *, place: int = 0,
    stride: int | None = None,
) -> Routine:  # fmt: skip
    """y[r, c] = clip(round_half_even(x[r, c] · lines[0, c] + lines[1, c]) + zero point, limits).

    Codes of x to codes of y. lines: float32 [2, channels]; product and sum are each rounded to float32. The limits are
    codes. Rows of y are `stride` elements apart, channels by default, and the first begins at `place`.
    """
    channels = lines.shape[1]
    if rows * channels == 0:
        return Routine(())
    together = _rows_together(rows, channels, stride)
    kernel = Kernel(
        _LOOPS + "map_lines",
        {
            "x": x.kind, "y": y.kind, "channels": "i64", "stride": "i64", "lines": "f32*", "zero": "f32", "low": "f32",
            "high": "f32",
        },
    )  # fmt: skip
    stored = np.ascontiguousarray(np.tile(lines, together), np.float32)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y", place), "channels": channels * together,
        "stride": (stride or channels) * together, "lines": stored, "zero": float(y.zero_point),
        "low": float(limits[0] - y.zero_point), "high": float(limits[1] - y.zero_point),
    }  # fmt: skip
    grain = max(1, 4096 // (channels * together))
    return Routine((Step(kernel, arguments, tiles=rows // together, grain=grain),), {}, stored.nbytes)


def _rows_together(rows: int, channels: int, stride: int | None) -> int:
    """The number of rows joined to one, so that rows of few channels fill vectors; 1 where rows are not contiguous."""
    together = 1
    while stride in (None, channels) and rows % (2 * together) == 0 and 2 * together * channels <= _WIDE:
        together *= 2
    return together


def prepare_quantize_lines(rows: int, numbers: Array, y: Quantization, *, place: int = 0, stride: int) -> Routine:
    """y[r, place + c] = clip(round_half_even((x[r, c] · slope + shift) / scale), low, high) + zero point.

    x float32 [rows, channels], y codes in rows of `stride`. numbers: slope, shift, scale, zero point, low, high, each
    float32 [channels]; every operation is rounded to float32, and NaN gives the zero point.
    """
    channels = numbers.shape[1]
    if rows * channels == 0:
        return Routine(())
    together = _rows_together(rows, channels, stride)
    kernel = Kernel(
        _LOOPS + "quantize_lines",
        {"x": "f32*", "y": y.kind, "channels": "i64", "stride": "i64", "numbers": "f32*"},
    )
    stored = np.ascontiguousarray(np.tile(numbers, together), np.float32)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y", place), "channels": channels * together, "stride": stride * together,
        "numbers": stored,
    }  # fmt: skip
    grain = max(1, 4096 // (channels * together))
    return Routine((Step(kernel, arguments, tiles=rows // together, grain=grain),), {}, stored.nbytes)


def prepare_float_table(count: int, table: Array) -> Routine:
    """y[i] = table[x[i]], bytes to float32; table: 256 float32 by the bits of x as u8."""
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "count": count, "table": np.ascontiguousarray(table, np.float32),
    }  # fmt: skip
    return Routine((Step(MAP_FLOATS, arguments, tiles=-(-count // 4096), grain=4),))
