"""InstanceNormalization of float32 rows, each with the factor and the bias of its channel."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import f32_at
from graphopt.kernels.loops.core.reduction import LANES, folded, total


def instance_norm(lo, hi, worker, x, y, channels, columns, scale, bias, epsilon, scratch, scratch_bytes):
    """y = (x − mean) / sqrt(variance + epsilon) · scale[c] + bias[c] over each row; a tile is a row of channel c."""
    lanes = f32_at(scratch + worker * scratch_bytes)
    count = np.float32(columns)
    whole = columns // LANES * LANES
    for row in range(lo, hi):
        values, results = f32_at(x + 4 * row * columns), f32_at(y + 4 * row * columns)
        mean = np.float32(total(values, columns, lanes) / count)
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
        channel = row % channels
        factor = np.float32(scale[channel] / np.sqrt(np.float32(variance + epsilon)))
        added = bias[channel]
        for i in range(columns):
            results[i] = np.float32(np.float32(np.float32(values[i] - mean) * factor) + added)
