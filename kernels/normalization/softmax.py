"""Preparation of Softmax over the last axis, of 8-bit codes and of float32."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.lookup import table_look_up
from graphopt.kernels.tensors.quantization import CodeRecord, Quantization

_SCRATCH = 512  # bytes: a table for codes read as u8 and one for s8
SOFTMAX_CODES = Kernel(
    "graphopt.kernels.loops.normalization.softmax:softmax_codes",
    {
        "x": "u8*", "y": "u8*", "rows": "i64", "columns": "i64", "flip": "u8", "weights": "i32*",
        "exponentials": "f32*", "qy": CodeRecord, "lookup": "i64", "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip
SOFTMAX_FLOATS = Kernel(
    "graphopt.kernels.loops.normalization.softmax:softmax_floats",
    {"x": "f32*", "y": "f32*", "columns": "i64", "unknown": "f32", "scratch": "i64", "scratch_bytes": "i64"},
)


def prepare_softmax(rows: int, columns: int, x: Quantization, y: Quantization) -> Routine:
    """DequantizeLinear, Softmax over the last axis, QuantizeLinear: x codes[rows, columns] → y codes.

    y = saturate(round_half_even(e / Σe / y scale) + zero point), e = exp(−(greatest of the row − code) · x scale). The
    sum is exact to 2⁻²⁴ of its greatest term; the quotient is rounded once, where separate float32 operators round
    every step, so a code differs by one from theirs where both stand next to a tie.
    """
    if rows == 0 or columns == 0:
        return Routine(())
    exact = np.exp(-np.float64(x.scale) * np.arange(255, -1, -1))
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "rows": rows, "columns": columns, "flip": 128 if x.signed else 0,
        "weights": np.rint(exact * 2**24).astype(np.int32), "exponentials": exact.astype(np.float32),
        "qy": y.record, "lookup": table_look_up(), "scratch": SCRATCH, "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    grain = max(1, 4096 // columns)
    return Routine((Step(SOFTMAX_CODES, arguments, tiles=rows, grain=grain, scratch=_SCRATCH),))


def prepare_float_softmax(rows: int, columns: int, unknown: float = np.nan) -> Routine:
    """ONNX Softmax over the last axis of float32 x[rows, columns]: exp(x − max) · (1 / Σ), accurate to a few units in
    the last place.

    A row that contains NaN, or only −inf, becomes `unknown`.
    """
    if rows == 0 or columns == 0:
        return Routine(())
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "columns": columns, "unknown": unknown, "scratch": SCRATCH,
        "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    grain = max(1, 4096 // columns)
    return Routine((Step(SOFTMAX_FLOATS, arguments, tiles=rows, grain=grain, scratch=_SCRATCH),))
