"""Preparation of QuantizeLinear: the model of how an operator becomes a routine."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step

_TILE = 4096

QUANTIZE_U8 = Kernel(
    "graphopt.kernels.loops.quantize:quantize_u8",
    {"x": "f32*", "y": "u8*", "count": "i64", "scale": "f32", "zero_point": "i64"},
)


def prepare_quantize_u8(count: int, scale: float | np.float32, zero_point: int) -> Routine:
    """QuantizeLinear of `count` contiguous float32 values in buffer x to uint8 in buffer y, one scale for all.

    As the ONNX operator: divide in float32, round half to even, add the zero point, saturate. NaN gives the zero point.
    Raises ValueError for a scale that is not a positive finite number.
    """
    if not np.isfinite(scale) or scale <= 0:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y"), "count": count, "scale": float(scale)}
    arguments["zero_point"] = zero_point
    return Routine((Step(QUANTIZE_U8, arguments, tiles=-(-count // _TILE), grain=4),))
