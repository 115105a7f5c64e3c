"""Preparation of steps that move elements: slices, concatenations, shuffles, transposes, padding, nearest resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels.compiler import Kernel
from graphopt.kernels.steps import Argument, Buffer, Step

_ROWS = 64

GATHER_CHANNELS = Kernel(
    "graphopt.kernels.loops.layout:gather_channels",
    {"x": "u8*", "y": "u8*", "rows": "i64", "x_stride": "i64", "y_stride": "i64", "index": "i32*", "channels": "i64"},
)


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
