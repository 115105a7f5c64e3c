"""Depthwise convolution of dynamically quantized codes, in float32: exact for small integers, with fused products."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.exponential import multiply_add
from graphopt.kernels.loops.core.memory import address_of, f32_at


def depthwise_floats(lo, hi, worker, x, y, weights, scales, bias, row_scales, row_zeros, low, high, window):
    """y = clamp(Σ (x − zero) w · (x scale · scale) + bias); x: uint8 images with their border, a tile is a row of y.

    weights: float32 [taps, channels], less their zero points: sums of up to 258 products stay below 2²⁴.
    """
    zero, factor = np.float32(row_zeros[0]), row_scales[0]
    for tile in range(lo, hi):
        image = tile // window.out_height
        first = (image * window.height + (tile - image * window.out_height) * window.stride_h) * window.width
        for pixel in range(window.out_width):
            target = f32_at(address_of(y) + 4 * (tile * window.out_width + pixel) * window.channels)
            for c in range(window.channels):
                target[c] = np.float32(0)
            for h in range(window.kernel_h):
                for w in range(window.kernel_w):
                    at = (
                        first + h * window.dilation_h * window.width + pixel * window.stride_w + w * window.dilation_w
                    ) * window.channels
                    tap = (h * window.kernel_w + w) * window.channels
                    for c in range(window.channels):
                        centred = np.float32(np.float32(x[at + c]) - zero)
                        target[c] = multiply_add(centred, weights[tap + c], target[c])
            for c in range(window.channels):
                v = np.float32(np.float32(target[c] * np.float32(factor * scales[c])) + bias[c])
                v = low if v < low else v
                target[c] = high if v > high else v
