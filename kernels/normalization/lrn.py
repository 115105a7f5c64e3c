"""Preparation of LocalResponseNormalization between codes."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import CodeRecord, Quantization

MAX_SIZE = 1024  # squares of codes are summed in int32


def _kernel(x: str, y: str) -> Kernel:
    return Kernel(
        "graphopt.kernels.loops.normalization.lrn:lrn",
        {
            "x": x, "y": y, "channels": "i64", "size": "i64", "qx": CodeRecord, "factor": "f32", "bias": "f32",
            "beta": "f32", "qy": CodeRecord, "scratch": "i64", "scratch_bytes": "i64",
        },
    )  # fmt: skip


def prepare_lrn(
    pixels: int, channels: int, size: int, alpha: float, beta: float, bias: float, x: Quantization, y: Quantization
) -> Routine:
    """DequantizeLinear, ONNX LRN across the last axis, QuantizeLinear: x codes[pixels, channels] → y codes.

    y = quantize(x / (bias + alpha / size · Σ x²)^beta), channels c − ⌊(size − 1) / 2⌋ … c + ⌈(size − 1) / 2⌉. The
    sum of squares is exact in integers, the rest rounded in float32: next to a tie a code differs by one from the
    float64 evaluation. Raises ValueError for a size above 1,024.
    """
    if not 0 < size <= MAX_SIZE:
        raise ValueError(f"a window of {size} channels")
    if pixels == 0 or channels == 0:
        return Routine(())
    scratch = whole_lines(4 * (2 * channels + size))
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "channels": channels, "size": size, "qx": x.record,
        "factor": float(np.float64(alpha) / size * np.float64(x.scale) ** 2), "bias": bias, "beta": beta,
        "qy": y.record, "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    grain = max(1, 4096 // channels)
    return Routine((Step(_kernel(x.kind, y.kind), arguments, tiles=pixels, grain=grain, scratch=scratch),))
