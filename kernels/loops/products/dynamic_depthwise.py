"""Depthwise convolution of codes quantized while running. Small integers in float32 are exact, and fuse."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.exponential import multiply_add
from graphopt.kernels.loops.core.memory import address_of, f32_at


def depthwise_floats(
    lo, hi, worker, x, y, weights, scales, bias, row_scales, row_zeros, low, high, height, width, channels, out_height,
    out_width, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w,
):  # fmt: skip
    """y = clamp(Σ (x − zero) w · (x scale · scale) + bias); x: uint8 images with their border, a tile is a row of y.

    weights: float32 [taps, channels], less their zero points: sums of up to 258 products stay below 2²⁴.
    """
    zero, factor = np.float32(row_zeros[0]), row_scales[0]
    for tile in range(lo, hi):
        image = tile // out_height
        first = (image * height + (tile - image * out_height) * stride_h) * width
        for pixel in range(out_width):
            target = f32_at(address_of(y) + 4 * (tile * out_width + pixel) * channels)
            for c in range(channels):
                target[c] = np.float32(0)
            for h in range(kernel_h):
                for w in range(kernel_w):
                    at = (first + h * dilation_h * width + pixel * stride_w + w * dilation_w) * channels
                    tap = (h * kernel_w + w) * channels
                    for c in range(channels):
                        centred = np.float32(np.float32(x[at + c]) - zero)
                        target[c] = multiply_add(centred, weights[tap + c], target[c])
            for c in range(channels):
                v = np.float32(np.float32(target[c] * np.float32(factor * scales[c])) + bias[c])
                v = low if v < low else v
                target[c] = high if v > high else v
