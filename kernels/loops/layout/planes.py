"""Between float32 planes (NCHW, as a model's borders have them) and 8-bit pixels (NHWC): rearranged while converted."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import code_limits, encode
from graphopt.kernels.loops.core.memory import u8_at

PIXELS = 512  # of a tile
TOGETHER = 8  # channels


def quantize_planes(lo, hi, worker, x, y, images, pixels, channels, qy, scratch, scratch_bytes):
    """y[n, p, c] = QuantizeLinear(x[n, c, p]); NaN gives the zero point.

    A few channels are converted into scratch first: strided stores would prevent vectorization of the arithmetic.
    """
    zero, low, high = code_limits(qy)
    blocks = (pixels + PIXELS - 1) // PIXELS
    codes = u8_at(scratch + worker * scratch_bytes)
    for tile in range(lo, hi):
        image = tile // blocks
        first = (tile - image * blocks) * PIXELS
        count = min(PIXELS, pixels - first)
        for begin in range(0, channels, TOGETHER):
            group = min(TOGETHER, channels - begin)
            for c in range(group):
                source = (image * channels + begin + c) * pixels + first
                for p in range(count):
                    codes[c * PIXELS + p] = encode(x[source + p], qy.scale, zero, low, high)
            target = (image * pixels + first) * channels + begin
            if group == 3 and channels == 3:
                for p in range(count):
                    y[target + 3 * p] = codes[p]
                    y[target + 3 * p + 1] = codes[PIXELS + p]
                    y[target + 3 * p + 2] = codes[2 * PIXELS + p]
            else:
                for p in range(count):
                    for c in range(group):
                        y[target + p * channels + c] = codes[c * PIXELS + p]


def quantize_line_planes(lo, hi, worker, x, y, images, pixels, channels, numbers, scratch, scratch_bytes):
    """As `quantize_planes`, each channel c by a line and a scale of its own.

    y[n, p, c] = clip(round((slope · x[n, c, p] + shift) / scale), low, high) + zero, of `numbers`: slopes, shifts,
    scales, zero points and both limits. NaN gives the zero point.
    """
    blocks = (pixels + PIXELS - 1) // PIXELS
    codes = u8_at(scratch + worker * scratch_bytes)
    for tile in range(lo, hi):
        image = tile // blocks
        first = (tile - image * blocks) * PIXELS
        count = min(PIXELS, pixels - first)
        for begin in range(0, channels, TOGETHER):
            group = min(TOGETHER, channels - begin)
            for c in range(group):
                at = begin + c
                source = (image * channels + at) * pixels + first
                slope, shift, scale = numbers[at], numbers[channels + at], numbers[2 * channels + at]
                zero, low, high = numbers[3 * channels + at], numbers[4 * channels + at], numbers[5 * channels + at]
                for p in range(count):
                    v = np.float32(np.float32(x[source + p] * slope) + shift)
                    codes[c * PIXELS + p] = encode(v, scale, zero, low, high)
            target = (image * pixels + first) * channels + begin
            for p in range(count):
                for c in range(group):
                    y[target + p * channels + c] = codes[c * PIXELS + p]


def dequantize_planes(lo, hi, worker, x, y, images, pixels, channels, qx):
    """y[n, c, p] = DequantizeLinear(x[n, p, c])."""
    zero = np.int32(qx.zero)
    blocks = (pixels + PIXELS - 1) // PIXELS
    for tile in range(lo, hi):
        image = tile // blocks
        first = (tile - image * blocks) * PIXELS
        count = min(PIXELS, pixels - first)
        for c in range(channels):
            source = (image * pixels + first) * channels + c
            target = (image * channels + c) * pixels + first
            for p in range(count):
                y[target + p] = np.float32(np.int32(x[source + p * channels]) - zero) * qx.scale
