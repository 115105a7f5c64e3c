"""Preparation of steps that move elements: slices, concatenations, shuffles, transposes, padding, nearest resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels.compiler import Kernel
from graphopt.kernels.quantization import aligned_table, table_address
from graphopt.kernels.steps import Argument, Buffer, Step

_ROWS = 8

GATHER_CHANNELS = Kernel(
    "graphopt.kernels.loops.layout:gather_channels",
    {"x": "u8*", "y": "u8*", "rows": "i64", "x_stride": "i64", "y_stride": "i64", "index": "i32*", "channels": "i64"},
)
_COPY = {"x": "u8*", "y": "u8*", "rows": "i64", "x_stride": "i64", "y_stride": "i64", "count": "i64"}
COPY_ROWS = Kernel("graphopt.kernels.loops.layout:copy_rows", _COPY)
MAP_ROWS = Kernel("graphopt.kernels.loops.layout:map_rows", {**_COPY, "table": "u8*", "lookup": "i64"})


def map_rows_step(
    rows: int, count: int, table: npt.NDArray[Any], x: Buffer, y: Buffer,
    *, x_stride: int | None = None, y_stride: int | None = None,
) -> Step:  # fmt: skip
    """y[r, :count] = table[x[r, :count]] for bytes; strides in bytes, `count` by default."""
    arguments: dict[str, Argument] = {
        "x": x, "y": y, "rows": rows, "x_stride": count if x_stride is None else x_stride,
        "y_stride": count if y_stride is None else y_stride, "count": count, "table": aligned_table(table),
        "lookup": table_address(),
    }  # fmt: skip
    return Step(MAP_ROWS, arguments, tiles=-(-rows // _ROWS))


def gather_channels_step(rows: int, channels: int, index: npt.NDArray[Any], x: Buffer, y: Buffer) -> Step:
    """Gather along the last axis of bytes: x [rows, channels] → y [rows, len(index)], y[r, c] = x[r, index[c]]."""
    index = np.ascontiguousarray(index, np.int32)
    if index.size and not (index.min() >= 0 and index.max() < channels):
        raise ValueError(f"channel indices must be in 0 … {channels - 1}")
    arguments: dict[str, Argument] = {
        "x": x, "y": y, "rows": rows, "x_stride": channels, "y_stride": index.size, "index": index,
        "channels": index.size,
    }  # fmt: skip
    return Step(GATHER_CHANNELS, arguments, tiles=-(-rows // _ROWS))
