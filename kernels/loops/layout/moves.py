"""Moving bytes: rows at strides, gathered and shuffled channels, nearest resize."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.loops.core.memory import address_of, call4

ROWS = 8  # rows of a tile


def gather_channels(lo, hi, worker, x, y, rows, x_stride, y_stride, index, channels):
    """y[row, c] = x[row, index[c]]."""
    for row in range(lo * ROWS, min(hi * ROWS, rows)):
        source, target = row * x_stride, row * y_stride
        for c in range(channels):
            y[target + c] = x[source + index[c]]


def shuffle_channels(lo, hi, worker, x, y, rows, groups, each):
    """y[row, c, g] = x[row, g, c]: the channel shuffle."""
    for row in range(lo * ROWS, min(hi * ROWS, rows)):
        at = row * groups * each
        if groups == 2:
            for c in range(each):
                y[at + 2 * c] = x[at + c]
                y[at + 2 * c + 1] = x[at + each + c]
        elif groups == 3:
            for c in range(each):
                y[at + 3 * c] = x[at + c]
                y[at + 3 * c + 1] = x[at + each + c]
                y[at + 3 * c + 2] = x[at + 2 * each + c]
        elif groups == 4:
            for c in range(each):
                y[at + 4 * c] = x[at + c]
                y[at + 4 * c + 1] = x[at + each + c]
                y[at + 4 * c + 2] = x[at + 2 * each + c]
                y[at + 4 * c + 3] = x[at + 3 * each + c]
        else:
            for g in range(groups):
                for c in range(each):
                    y[at + c * groups + g] = x[at + g * each + c]


def copy_rows(lo, hi, worker, x, y, rows, x_stride, y_stride, count):
    """y[row, :count] = x[row, :count], rows at strides of their own: slices, splits and concatenations."""
    if x_stride == count and y_stride == count:
        for i in range(lo * ROWS * count, min(hi * ROWS, rows) * count):
            y[i] = x[i]
        return
    for row in range(lo * ROWS, min(hi * ROWS, rows)):
        for i in range(count):
            y[row * y_stride + i] = x[row * x_stride + i]


def fill_rows(lo, hi, worker, y, rows, y_stride, count, value):
    """y[row, :count] = value, rows at strides in elements."""
    for row in range(lo * ROWS, min(hi * ROWS, rows)):
        for i in range(count):
            y[row * y_stride + i] = value


def map_rows(lo, hi, worker, x, y, rows, x_stride, y_stride, count, table, lookup):
    """y[row, :count] = table[x[row, :count]]."""
    for row in range(lo * ROWS, min(hi * ROWS, rows)):
        call4(lookup, address_of(x) + row * x_stride, address_of(y) + row * y_stride, count, address_of(table))


def resize_nearest(lo, hi, worker, x, y, height, width, out_height, out_width, channels, rows, columns):
    """y[n, i, j] = x[n, rows[i], columns[j]], pixels of `channels` bytes; a tile is a row of the output."""
    for tile in range(lo, hi):
        image = tile // out_height
        source = (image * height + rows[tile - image * out_height]) * width * channels
        target = tile * out_width * channels
        for j in range(out_width):
            start = source + columns[j] * channels
            for c in range(channels):
                y[target + j * channels + c] = x[start + c]
