"""Pools over float32 NHWC images: one tile is one row of the output."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import address_of, f32_at


def pool_floats(
    lo, hi, worker, x, y, mean, whole, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h,
    stride_w, dilation_h, dilation_w, top, left, bottom, right,
):  # fmt: skip
    """The greatest of a window's taps, or their mean; `whole` counts padding as elements, which are real zeros.

    NaN among the taps of a maximum may or may not come through, as in other runtimes.
    """
    start = np.float32(0) if mean != 0 else np.float32(-np.inf)
    for tile in range(lo, hi):
        image = tile // out_height
        above = (tile - image * out_height) * stride_h - top
        base = address_of(x) + 4 * image * height * width * channels
        for pixel in range(out_width):
            before = pixel * stride_w - left
            target = f32_at(address_of(y) + 4 * (tile * out_width + pixel) * channels)
            for c in range(channels):
                target[c] = start
            taps = 0
            padded = 0
            for h in range(kernel_h):
                row = above + h * dilation_h
                if row >= height + bottom:
                    break
                for w in range(kernel_w):
                    column = before + w * dilation_w
                    if column >= width + right:
                        break
                    padded += 1
                    if row < 0 or row >= height or column < 0 or column >= width:
                        continue
                    taps += 1
                    source = f32_at(base + 4 * (row * width + column) * channels)
                    if mean != 0:
                        for c in range(channels):
                            target[c] += source[c]
                    else:
                        for c in range(channels):
                            target[c] = source[c] if source[c] > target[c] else target[c]
            if mean != 0:
                count = np.float32(padded if whole != 0 else taps)
                for c in range(channels):
                    target[c] = np.float32(target[c] / count)
