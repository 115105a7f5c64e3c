"""Preparation of steps that move bytes: rows at strides (Concat, Slice), shuffled channels, nearest Resize."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.lookup import aligned_table, table_look_up
from graphopt.kernels.tensors.windows import Image

_ROWS = 8  # of a tile, as the loops cut them

GATHER_CHANNELS = Kernel(
    "graphopt.kernels.loops.layout.moves:gather_channels",
    {"x": "u8*", "y": "u8*", "rows": "i64", "x_stride": "i64", "y_stride": "i64", "index": "i32*", "channels": "i64"},
)
_COPY = {"x": "u8*", "y": "u8*", "rows": "i64", "x_stride": "i64", "y_stride": "i64", "count": "i64"}
SHUFFLE_CHANNELS = Kernel(
    "graphopt.kernels.loops.layout.moves:shuffle_channels",
    {"x": "u8*", "y": "u8*", "rows": "i64", "groups": "i64", "each": "i64"},
)
RESIZE_NEAREST = Kernel(
    "graphopt.kernels.loops.layout.moves:resize_nearest",
    {
        "x": "u8*", "y": "u8*", "height": "i64", "width": "i64", "out_height": "i64", "out_width": "i64",
        "channels": "i64", "rows": "i32*", "columns": "i32*",
    },
)  # fmt: skip
_FILL = {
    size: Kernel(
        "graphopt.kernels.loops.layout.moves:fill_rows",
        {"y": kind, "rows": "i64", "y_stride": "i64", "count": "i64", "value": value},
    )
    for size, kind, value in ((1, "u8*", "u8"), (4, "f32*", "f32"))
}
COPY_ROWS = Kernel("graphopt.kernels.loops.layout.moves:copy_rows", _COPY)
MAP_ROWS = Kernel("graphopt.kernels.loops.layout.moves:map_rows", {**_COPY, "table": "u8*", "lookup": "i64"})


def map_rows_step(
    rows: int, count: int, table: Array, x: Buffer, y: Buffer, *, x_stride: int | None = None,
    y_stride: int | None = None,
) -> Step:  # fmt: skip
    """y[r, :count] = table[x[r, :count]] for bytes; strides in bytes, `count` by default."""
    arguments: dict[str, Argument] = {
        "x": x, "y": y, "rows": rows, "x_stride": count if x_stride is None else x_stride,
        "y_stride": count if y_stride is None else y_stride, "count": count, "table": aligned_table(table),
        "lookup": table_look_up(),
    }  # fmt: skip
    return Step(MAP_ROWS, arguments, tiles=-(-rows // _ROWS))


def gather_channels_step(rows: int, channels: int, index: Array, x: Buffer, y: Buffer) -> Step:
    """Gather along the last axis of bytes: x [rows, channels] → y [rows, len(index)], y[r, c] = x[r, index[c]]."""
    index = np.ascontiguousarray(index, np.int32)
    if index.size and not (index.min() >= 0 and index.max() < channels):
        raise ValueError(f"channel indices must be in 0 … {channels - 1}")
    arguments: dict[str, Argument] = {
        "x": x, "y": y, "rows": rows, "x_stride": channels, "y_stride": index.size, "index": index,
        "channels": index.size,
    }  # fmt: skip
    return Step(GATHER_CHANNELS, arguments, tiles=-(-rows // _ROWS))


def copy_rows_step(rows: int, count: int, x: Buffer, y: Buffer, *, x_stride: int, y_stride: int) -> Step:
    """y[r, :count] = x[r, :count] for bytes; rows start `x_stride` and `y_stride` bytes apart."""
    arguments: dict[str, Argument] = {
        "x": x, "y": y, "rows": rows, "x_stride": x_stride, "y_stride": y_stride, "count": count,
    }  # fmt: skip
    return Step(COPY_ROWS, arguments, tiles=-(-rows // _ROWS))


def fill_rows_step(rows: int, count: int, value: float, y: Buffer, *, y_stride: int, itemsize: int = 1) -> Step:
    """y[r, :count] = value for bytes, or for float32 where `itemsize` is 4; rows start `y_stride` elements apart."""
    arguments: dict[str, Argument] = {"y": y, "rows": rows, "y_stride": y_stride, "count": count, "value": value}
    return Step(_FILL[itemsize], arguments, tiles=-(-rows // _ROWS))


def prepare_channel_shuffle(rows: int, channels: int, groups: int) -> Routine:
    """Reshape [rows, groups, channels / groups], transpose the last two, reshape back: x → y, bytes [rows, channels].

    Raises ValueError where groups do not divide channels.
    """
    each, rest = divmod(channels, groups)
    if rest:
        raise ValueError(f"{groups} groups do not divide {channels} channels")
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y"), "rows": rows, "groups": groups, "each": each}
    return Routine((Step(SHUFFLE_CHANNELS, arguments, tiles=-(-rows // _ROWS)),))


def prepare_resize_nearest(image: Image, rows: Array, columns: Array) -> Routine:
    """ONNX Resize, mode nearest, of bytes: y[n, i, j] = x[n, rows[i], columns[j]]; x: image.shape.

    The indices are those that coordinate_transformation_mode and nearest_mode choose. Raises ValueError for indices
    outside the image.
    """
    for indices, size in ((rows, image.height), (columns, image.width)):
        if len(indices) and not (min(indices) >= 0 and max(indices) < size):
            raise ValueError(f"indices must be in 0 … {size - 1}")
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "height": image.height, "width": image.width, "out_height": len(rows),
        "out_width": len(columns), "channels": image.channels, "rows": np.ascontiguousarray(rows, np.int32),
        "columns": np.ascontiguousarray(columns, np.int32),
    }  # fmt: skip
    return Routine((Step(RESIZE_NEAREST, arguments, tiles=image.batch * len(rows)),))
