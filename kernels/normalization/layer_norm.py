"""Preparation of LayerNormalization and RMSNormalization over the last axis."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import CodeRecord, Quantization

_LOOPS = "graphopt.kernels.loops.normalization.layer_norm:"
_SCRATCH = 256  # a float32 for each of 64 lanes


def _kernel(name: str, y: str) -> Kernel:
    return Kernel(
        _LOOPS + name,
        {
            "x": "i64", "y": y, "rows": "i64", "columns": "i64", "scale": "f32*", "bias": "f32*", "epsilon": "f32",
            "qy": CodeRecord, "scratch": "i64", "scratch_bytes": "i64",
        },
    )  # fmt: skip


def prepare_layer_norm(
    rows: int, columns: int, scale: Array, bias: Array | None, epsilon: float, y: Quantization | None = None, *,
    centred: bool = True,
) -> Routine:  # fmt: skip
    """ONNX LayerNormalization, axis −1: float32 x[rows, columns] → y float32, or its QuantizeLinear to codes.

    Every operation is rounded in float32; mean and variance are two passes of 64 partial sums each. Another order of
    summation moves the result by a few units in the last place, hence a code by one where it stands next to a tie.
    With `centred` False, RMSNormalization: x / sqrt(mean of x² + epsilon) · scale, without bias.
    """
    if rows == 0 or columns == 0:
        return Routine(())
    added = np.zeros(columns, np.float32) if bias is None else bias
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "rows": rows, "columns": columns,
        "scale": np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), (columns,)), np.float32),
        "bias": np.ascontiguousarray(np.broadcast_to(added.reshape(-1), (columns,)), np.float32), "epsilon": epsilon,
        "qy": y.record if y else CodeRecord(1.0, 0, 0, 0), "scratch": SCRATCH, "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    name = "layer_norm" if centred else "rms_norm"
    kernel = _kernel(f"{name}_codes", y.kind) if y else _kernel(name, "f32*")
    return Routine((Step(kernel, arguments, tiles=rows, grain=max(1, 8192 // columns), scratch=_SCRATCH),))
