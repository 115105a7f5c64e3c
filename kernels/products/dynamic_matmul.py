"""Preparation of dynamically quantized matrix products: DynamicQuantizeLinear, MatMulInteger, Cast and Mul."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.levels import Level
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.products.epilogue import FloatOutput
from graphopt.kernels.products.matmul_conv import Activations, prepare_matmul

_LINE = 16384
"""Elements of a line, the unit of the search for extremes: 64 KiB of float32, which stay in cache for the next step."""
_SCRATCH = 512  # bytes: two float32 extremes for each of 64 lanes
EXTREMES = Kernel(
    "graphopt.kernels.loops.products.dynamic_quantize:extremes",
    {"x": "i64", "ranges": "f32*", "columns": "i64", "scratch": "i64", "scratch_bytes": "i64"},
)
QUANTIZE_ROWS = Kernel(
    "graphopt.kernels.loops.products.dynamic_quantize:quantize_rows",
    {
        "x": "i64", "y": "i64", "row_scales": "f32*", "row_zeros": "i32*", "ranges": "f32*",
        "lines": "i64", "columns": "i64",
    },
)  # fmt: skip


def joined_rows(rows: int, columns: int) -> tuple[int, int]:
    """(lines, elements of a line): short rows are joined, as they would leave most lanes of the search empty."""
    together = max((n for n in range(1, min(rows, _LINE // columns) + 1) if rows % n == 0), default=1)
    return rows // together, columns * together


def extremes_step(x: Buffer, lines: int, columns: int) -> Step:
    """Least and greatest value of each line of float32 x, and 0, to buffer ranges (f32 [lines, 2])."""
    grain = max(1, _LINE // columns)
    arguments: dict[str, Argument] = {
        "x": x, "ranges": Buffer("ranges"), "columns": columns, "scratch": SCRATCH, "scratch_bytes": _SCRATCH
    }  # fmt: skip
    return Step(EXTREMES, arguments, tiles=lines, grain=grain, scratch=_SCRATCH)


def prepare_dynamic_quantize(rows: int, columns: int, *, target: str = "y") -> Routine:
    """DynamicQuantizeLinear of float32 [rows, columns] in buffer x to uint8 in buffer `target`.

    scale = (max(x, 0) − min(x, 0)) / 255 and zero = saturate(round(−min / scale)) as the operator defines them (1 and 0
    for all zeros). Buffers row_scales (f32 [rows]) and row_zeros (i32 [rows]) repeat them for every row, as a product
    reads them. NaN does not count towards the extremes and becomes zero.
    """
    if rows == 0 or columns == 0:
        return Routine(())
    lines, length = joined_rows(rows, columns)
    grain = max(1, _LINE // columns)
    quantize: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer(target), "row_scales": Buffer("row_scales"), "row_zeros": Buffer("row_zeros"),
        "ranges": Buffer("ranges"), "lines": lines, "columns": columns,
    }  # fmt: skip
    steps = (extremes_step(Buffer("x"), lines, length), Step(QUANTIZE_ROWS, quantize, tiles=rows, grain=grain))
    return Routine(steps, {"ranges": 8 * lines})


def prepare_dynamic_matmul(
    rows: int, weights: Array, weight_scale: float | Array, *, bias: Array | None = None,
    weight_zero_point: int | Array = 0, level: Level | None = None,
) -> Routine:  # fmt: skip
    """float32 y[rows, N] = float32(acc) · (x_scale · weight_scale[n]) + bias[n] of float32 x[rows, K].

    acc is MatMulInteger of x quantized as `prepare_dynamic_quantize` does and of s8 or u8 `weights` [K, N]; bias is
    float32.
    """
    depth, channels = weights.shape
    quantize = prepare_dynamic_quantize(rows, depth, target="quantized")
    scale = np.broadcast_to(np.asarray(weight_scale, np.float32), (channels,))
    product = prepare_matmul(
        rows, weights, Activations(np.uint8), FloatOutput(scale, bias, dynamic=True),
        weight_zero_point=weight_zero_point, level=level, source="quantized",
    )  # fmt: skip
    temporaries = {"quantized": rows * depth, "row_scales": 4 * rows, "row_zeros": 4 * rows}
    return Routine(
        quantize.steps + product.steps,
        {**quantize.temporaries, **product.temporaries, **temporaries},
        product.packed_bytes,
    )
