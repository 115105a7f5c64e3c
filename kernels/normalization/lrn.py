"""Preparation of LocalResponseNormalization between codes."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import Quantization

MAX_SIZE = 1024  # squares of codes are summed in int32


def _kernel(x: str, y: str) -> Kernel:
    return Kernel(
        "graphopt.kernels.loops.normalization.lrn:lrn",
        {
            "x": x, "y": y, "channels": "i64", "size": "i64", "x_zero": "i64", "x_scale": "f32", "factor": "f32",
            "bias": "f32", "beta": "f32", "y_scale": "f32", "y_zero": "i64", "least": "i64", "greatest": "i64",
            "scratch": "i64", "scratch_bytes": "i64",
        },
    )  # fmt: skip


def prepare_lrn(
    pixels: int, channels: int, size: int, alpha: float, beta: float, bias: float, x: Quantization, y: Quantization
) -> Routine:
    """DequantizeLinear, ONNX LRN across the last axis, QuantizeLinear: x codes[pixels, channels] → y codes.

    y = quantize(x / (bias + alpha / size · Σ x²)^beta), channels c − ⌊(size − 1) / 2⌋ … c + ⌈(size − 1) / 2⌉. The
    sum of squares is exact in integers, the rest rounded in float32: a code differs by one from a float64 evaluation's
    where that stands next to a tie. Raises ValueError for a size above 1,024.
    """
    if not 0 < size <= MAX_SIZE:
        raise ValueError(f"a window of {size} channels")
    if pixels == 0 or channels == 0:
        return Routine(())
    scratch = -(-4 * (2 * channels + size) // 64) * 64
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "channels": channels, "size": size, "x_zero": x.zero_point,
        "x_scale": x.scale, "factor": float(np.float64(alpha) / size * np.float64(x.scale) ** 2), "bias": bias,
        "beta": beta, "y_scale": y.scale, "y_zero": y.zero_point, "least": y.low, "greatest": y.high,
        "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    grain = max(1, 4096 // channels)
    return Routine((Step(_kernel(x.kind, y.kind), arguments, tiles=pixels, grain=grain, scratch=scratch),))
