"""Preparation of tables for each channel, and of tables whose entries are float32."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array, aligned_copy
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.lookup import table_look_up

_LOOPS = "graphopt.kernels.loops.elementwise.tables:"
_BLOCK = 64  # codes a step: a cache line
MAP_CHANNELS = Kernel(
    _LOOPS + "map_channels", {"x": "u8*", "y": "u8*", "rows": "i64", "channels": "i64", "tables": "u8*"}
)
MAP_PLANES = Kernel(
    _LOOPS + "map_planes", {"x": "u8*", "y": "u8*", "channels": "i64", "inner": "i64", "tables": "u8*", "lookup": "i64"}
)
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


def prepare_float_table(count: int, table: Array) -> Routine:
    """y[i] = table[x[i]], bytes to float32; table: 256 float32 by the bits of x as u8."""
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "count": count, "table": np.ascontiguousarray(table, np.float32),
    }  # fmt: skip
    return Routine((Step(MAP_FLOATS, arguments, tiles=-(-count // 4096), grain=4),))
