"""Pools over float32 NHWC images, and means over an axis."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import address_of, f32_at
from graphopt.kernels.loops.core.reduction import total


def pool_floats(lo, hi, worker, x, y, mean, count_padding, window):
    """The maximum or mean of a window's taps; `count_padding` counts padding as elements of value 0.

    NaN among the taps of a maximum may or may not propagate, as in other runtimes.
    """
    start = np.float32(0) if mean != 0 else np.float32(-np.inf)
    for tile in range(lo, hi):
        image = tile // window.out_height
        above = (tile - image * window.out_height) * window.stride_h - window.top
        base = address_of(x) + 4 * image * window.height * window.width * window.channels
        for pixel in range(window.out_width):
            before = pixel * window.stride_w - window.left
            target = f32_at(address_of(y) + 4 * (tile * window.out_width + pixel) * window.channels)
            for c in range(window.channels):
                target[c] = start
            taps = 0
            padded = 0
            for h in range(window.kernel_h):
                row = above + h * window.dilation_h
                if row >= window.height + window.bottom:
                    break
                for w in range(window.kernel_w):
                    column = before + w * window.dilation_w
                    if column >= window.width + window.right:
                        break
                    padded += 1
                    if row < 0 or row >= window.height or column < 0 or column >= window.width:
                        continue
                    taps += 1
                    source = f32_at(base + 4 * (row * window.width + column) * window.channels)
                    if mean != 0:
                        for c in range(window.channels):
                            target[c] += source[c]
                    else:
                        for c in range(window.channels):
                            target[c] = source[c] if source[c] > target[c] else target[c]
            if mean != 0:
                count = np.float32(padded if count_padding != 0 else taps)
                for c in range(window.channels):
                    target[c] = np.float32(target[c] / count)


def mean(lo, hi, worker, x, y, count, inner, scratch, scratch_bytes):
    """y[o, i] = Σ x[o, :, i] / count; a tile is one outer index."""
    lanes = f32_at(scratch + worker * scratch_bytes)
    divisor = np.float32(count)
    for outer in range(lo, hi):
        if inner == 1:
            y[outer] = np.float32(total(f32_at(address_of(x) + 4 * outer * count), count, lanes) / divisor)
            continue
        target = f32_at(address_of(y) + 4 * outer * inner)
        for i in range(inner):
            target[i] = np.float32(0)
        for k in range(count):
            source = f32_at(address_of(x) + 4 * (outer * count + k) * inner)
            for i in range(inner):
                target[i] += source[i]
        for i in range(inner):
            target[i] = np.float32(target[i] / divisor)
