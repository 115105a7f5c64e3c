"""Pools over NHWC images: one tile is one row of the output."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.loops.core.memory import address_of, call8, i32_at, i64_at


def pool(lo, hi, worker, x, y, function, limits, scales, x_zero, y_zero, count_padding, window, scratch, scratch_bytes):
    """Collect each pixel's taps inside the image and pass them to the micro-kernel.

    scales[n] is the factor of a mean over n elements; `count_padding` counts padding as elements of value 0.
    """
    pointers = i64_at(scratch + worker * scratch_bytes)
    factors = i32_at(address_of(scales))
    for tile in range(lo, hi):
        image = tile // window.out_height
        above = (tile - image * window.out_height) * window.stride_h - window.top
        base = address_of(x) + image * window.height * window.width * window.channels
        for pixel in range(window.out_width):
            before = pixel * window.stride_w - window.left
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
                    if 0 <= row < window.height and 0 <= column < window.width:
                        pointers[taps] = base + (row * window.width + column) * window.channels
                        taps += 1
            elements = padded if count_padding != 0 else taps
            target = address_of(y) + (tile * window.out_width + pixel) * window.channels
            factor = factors[elements]
            offset = -taps * x_zero
            call8(
                function, address_of(pointers), taps, target, window.channels, offset, factor, address_of(limits),
                y_zero,
            )  # fmt: skip
