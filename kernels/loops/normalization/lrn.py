"""LocalResponseNormalization across channels, codes to codes, pixels with their channels side by side."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import code_limits, encode
from graphopt.kernels.loops.core.memory import address_of, i32_at


def lrn(lo, hi, worker, x, y, channels, size, qx, factor, bias, beta, qy, scratch, scratch_bytes):
    """y = x / (bias + factor · Σ (x code − zero)²)^beta; the sum over `size` channels is exact. A tile is a pixel.

    The squares stand between margins of zeros, which are the channels that the window misses at both ends.
    """
    squares = i32_at(scratch + worker * scratch_bytes)
    sums = i32_at(address_of(squares) + 4 * (channels + size))
    before = (size - 1) // 2
    zero = np.float32(qx.zero)
    out_zero, low, high = code_limits(qy)
    for i in range(channels + size):
        squares[i] = np.int32(0)
    inner = i32_at(address_of(squares) + 4 * before)
    for pixel in range(lo, hi):
        at = pixel * channels
        for c in range(channels):
            d = np.int32(np.int32(x[at + c]) - np.int32(qx.zero))
            inner[c] = np.int32(d * d)
            sums[c] = np.int32(0)
        for j in range(size):
            shifted = i32_at(address_of(squares) + 4 * j)
            for c in range(channels):
                sums[c] = np.int32(sums[c] + shifted[c])
        if beta == np.float32(0.75):
            for c in range(channels):
                root = np.sqrt(np.float32(bias + np.float32(factor * np.float32(sums[c]))))
                v = np.float32((np.float32(np.int32(x[at + c])) - zero) * qx.scale) / np.float32(root * np.sqrt(root))
                y[at + c] = encode(v, qy.scale, out_zero, low, high)
            continue
        for c in range(channels):
            base = np.float32(bias + np.float32(factor * np.float32(sums[c])))
            power = np.float32(np.exp(np.float64(beta) * np.log(np.float64(base))))
            v = np.float32((np.float32(np.int32(x[at + c])) - zero) * qx.scale) / power
            y[at + c] = encode(v, qy.scale, out_zero, low, high)
