"""DynamicQuantizeLinear of rows and of images: the scale and the zero point are computed from the values."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.loops.core.arithmetic import encode
from graphopt.kernels.loops.core.memory import f32_at, u8_at

LANES = 64  # independent running extremes, so that the search vectorizes


def extremes(lo, hi, worker, x, ranges, columns, scratch, scratch_bytes):
    """ranges[2 r] = least, ranges[2 r + 1] = greatest of row r and 0; a tile is one row."""
    lanes = f32_at(scratch + worker * scratch_bytes)
    for row in range(lo, hi):
        values = f32_at(x + 4 * row * columns)
        for k in range(LANES):
            lanes[k] = np.float32(0)
            lanes[LANES + k] = np.float32(0)
        whole = columns // LANES * LANES
        for i in range(0, whole, LANES):
            for k in range(LANES):
                v = values[i + k]
                lanes[k] = v if v < lanes[k] else lanes[k]
                lanes[LANES + k] = v if v > lanes[LANES + k] else lanes[LANES + k]
        least, greatest = np.float32(0), np.float32(0)
        for i in range(whole, columns):
            least = values[i] if values[i] < least else least
            greatest = values[i] if values[i] > greatest else greatest
        for k in range(LANES):
            least = lanes[k] if lanes[k] < least else least
            greatest = lanes[LANES + k] if lanes[LANES + k] > greatest else greatest
        ranges[2 * row] = least
        ranges[2 * row + 1] = greatest


@register_jitable
def _range(ranges, lines):
    """Least and greatest of all lines and of 0, from the ranges that `extremes` wrote."""
    least, greatest = np.float32(0), np.float32(0)
    for line in range(lines):
        least = ranges[2 * line] if ranges[2 * line] < least else least
        greatest = ranges[2 * line + 1] if ranges[2 * line + 1] > greatest else greatest
    return least, greatest


@register_jitable
def _grid(least, greatest):
    """Scale and zero point, both float32."""
    scale = np.float32(np.float32(greatest - least) / np.float32(255))
    scale = scale if scale > np.float32(0) else np.float32(1)
    zero = np.rint(np.float32(-least / scale))
    zero = zero if zero < np.float32(255) else np.float32(255)
    zero = zero if zero > np.float32(0) else np.float32(0)
    return scale, zero


@register_jitable
def _encode_row(source, sink, count, scale, zero):
    low, high = np.float32(-zero), np.float32(np.float32(255) - zero)
    for i in range(count):
        sink[i] = encode(source[i], scale, zero, low, high)


def quantize_rows(lo, hi, worker, x, y, row_scales, row_zeros, ranges, lines, columns):
    """Rows lo … hi − 1 to uint8 by the extremes of all lines."""
    least, greatest = _range(ranges, lines)
    scale, zero = _grid(least, greatest)
    for row in range(lo, hi):
        row_scales[row] = scale
        row_zeros[row] = np.int32(zero)
    _encode_row(f32_at(x + 4 * lo * columns), u8_at(y + lo * columns), (hi - lo) * columns, scale, zero)


def quantize_image(
    lo, hi, worker, x, y, row_scales, row_zeros, ranges, lines, height, row, top, left, padded_height, padded_row,
    pixels, tiles,
):  # fmt: skip
    """NHWC images to uint8 with a border of zero points; a tile is one padded line, `row` its elements inside.

    Each tile also writes its share of the scales and zero points of `pixels` output pixels.
    """
    least, greatest = _range(ranges, lines)
    scale, zero = _grid(least, greatest)
    for line in range(lo, hi):
        for pixel in range(pixels * line // tiles, pixels * (line + 1) // tiles):
            row_scales[pixel] = scale
            row_zeros[pixel] = np.int32(zero)
        image = line // padded_height
        i = line - image * padded_height - top
        target = u8_at(y + line * padded_row)
        if i < 0 or i >= height:
            for k in range(padded_row):
                target[k] = np.int32(zero)
            continue
        for k in range(left):
            target[k] = np.int32(zero)
        for k in range(left + row, padded_row):
            target[k] = np.int32(zero)
        _encode_row(f32_at(x + 4 * (image * height + i) * row), u8_at(y + line * padded_row + left), row, scale, zero)
