"""QuantizeLinear and DequantizeLinear between float32 and 8-bit integers."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

TILE = 4096  # elements of a tile


def quantize_u8(lo, hi, worker, x, y, count, scale, zero_point):
    """y = saturate(round_half_even(x / scale) + zero_point), NaN → zero_point; elements of tiles lo … hi − 1."""
    low, high = np.float32(-zero_point), np.float32(255 - zero_point)
    for i in range(lo * TILE, min(hi * TILE, count)):
        v = x[i] / scale
        v = v if v == v else np.float32(0)
        v = v if v > low else low
        v = v if v < high else high
        y[i] = np.uint8(np.int32(np.rint(v)) + np.int32(zero_point))
