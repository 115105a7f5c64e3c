"""LayerNormalization and RMSNormalization of float32 rows, written as float32 or as codes."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import code_limits, encode
from graphopt.kernels.loops.core.memory import f32_at
from graphopt.kernels.loops.core.reduction import LANES, folded, total


def _layer_norm(quantized, centred):
    def kernel(lo, hi, worker, x, y, rows, columns, scale, bias, epsilon, qy, scratch, scratch_bytes):
        """y = (x − mean) / sqrt(variance + epsilon) · scale + bias over each row; a tile is a row.

        With `centred` False, the mean is taken as 0 and no bias is added.
        """
        lanes = f32_at(scratch + worker * scratch_bytes)
        zero, low, high = code_limits(qy)
        count = np.float32(columns)
        whole = columns // LANES * LANES
        for row in range(lo, hi):
            values = f32_at(x + 4 * row * columns)
            mean = np.float32(total(values, columns, lanes) / count) if centred else np.float32(0)
            for k in range(LANES):
                lanes[k] = np.float32(0)
            for i in range(0, whole, LANES):
                for k in range(LANES):
                    d = np.float32(values[i + k] - mean)
                    lanes[k] += np.float32(d * d)
            for i in range(whole, columns):
                d = np.float32(values[i] - mean)
                lanes[i - whole] += np.float32(d * d)
            variance = np.float32(folded(lanes) / count)
            inverse = np.float32(np.float32(1) / np.sqrt(np.float32(variance + epsilon)))
            at = row * columns
            for i in range(columns):
                v = np.float32(np.float32(np.float32(values[i] - mean) * inverse) * scale[i])
                if centred:
                    v = np.float32(v + bias[i])
                if quantized:
                    y[at + i] = encode(v, qy.scale, zero, low, high)
                else:
                    y[at + i] = v

    return kernel


layer_norm, layer_norm_codes = _layer_norm(False, True), _layer_norm(True, True)
rms_norm, rms_norm_codes = _layer_norm(False, False), _layer_norm(True, False)
