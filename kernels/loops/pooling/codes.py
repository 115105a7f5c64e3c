"""Pools over NHWC images: one tile is one row of the output."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.loops.core.memory import address_of, call8, i32_at, i64_at


def pool(
    lo, hi, worker, x, y, function, limits, scales, x_zero, y_zero, whole, height, width, channels, out_height,
    out_width, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left, bottom, right,
    scratch, scratch_bytes,
):  # fmt: skip
    """Collect the taps of each pixel that lie in the image and hand them to the micro-kernel.

    scales[n] is the factor of a mean over n elements; `whole` counts padding as elements, which are real zeros.
    """
    pointers = i64_at(scratch + worker * scratch_bytes)
    factors = i32_at(address_of(scales))
    for tile in range(lo, hi):
        image = tile // out_height
        above = (tile - image * out_height) * stride_h - top
        base = address_of(x) + image * height * width * channels
        for pixel in range(out_width):
            before = pixel * stride_w - left
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
                    if 0 <= row < height and 0 <= column < width:
                        pointers[taps] = base + (row * width + column) * channels
                        taps += 1
            elements = padded if whole != 0 else taps
            target = address_of(y) + (tile * out_width + pixel) * channels
            factor = factors[elements]
            offset = -taps * x_zero
            call8(function, address_of(pointers), taps, target, channels, offset, factor, address_of(limits), y_zero)
