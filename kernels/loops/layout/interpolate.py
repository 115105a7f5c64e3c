"""Linear interpolation over float32 NHWC images."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import address_of, f32_at


def resize_linear(lo, hi, worker, x, y, sizes, rows, row_weights, columns, column_weights):
    """y[n, i, j] = Σ weight · x[n, row, column] over two rows and two columns; a tile is a row of the output.

    rows [2, out_height] and row_weights of the taps above and below, columns [2, out_width] of those before and behind.
    """
    channels = sizes.channels
    for tile in range(lo, hi):
        image = tile // sizes.out_height
        i = tile - image * sizes.out_height
        base = address_of(x) + 4 * image * sizes.height * sizes.width * channels
        above = base + 4 * rows[i] * sizes.width * channels
        below = base + 4 * rows[sizes.out_height + i] * sizes.width * channels
        for j in range(sizes.out_width):
            before = 4 * columns[j] * channels
            behind = 4 * columns[sizes.out_width + j] * channels
            w0 = np.float32(row_weights[i] * column_weights[j])
            w1 = np.float32(row_weights[i] * column_weights[sizes.out_width + j])
            w2 = np.float32(row_weights[sizes.out_height + i] * column_weights[j])
            w3 = np.float32(row_weights[sizes.out_height + i] * column_weights[sizes.out_width + j])
            a = f32_at(above + before)
            b = f32_at(above + behind)
            c = f32_at(below + before)
            d = f32_at(below + behind)
            target = f32_at(address_of(y) + 4 * (tile * sizes.out_width + j) * channels)
            for k in range(channels):
                target[k] = np.float32(
                    np.float32(np.float32(np.float32(w0 * a[k]) + np.float32(w1 * b[k])) + np.float32(w2 * c[k]))
                    + np.float32(w3 * d[k])
                )
