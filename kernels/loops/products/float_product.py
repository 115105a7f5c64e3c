"""Products of two float32 tensors: the second operand is packed into panels while running, once for each matrix."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import call6, f32_at


def pack_floats(
    lo, hi, worker, b, packed, inner, b_outer, b_inner, b_row, b_column, depth, channels, width, panel_count
):
    """One panel of one matrix: [depth][width], zeros beyond the last channel; strides in bytes."""
    for unit in range(lo, hi):
        matrix = unit // panel_count
        panel = unit - matrix * panel_count
        outer = matrix // inner
        first = panel * width
        count = min(width, channels - first)
        base = b + outer * b_outer + (matrix - outer * inner) * b_inner + first * b_column
        target = packed + 4 * unit * depth * width
        if b_column == 4:
            for k in range(depth):
                line, source = f32_at(target + 4 * k * width), f32_at(base + k * b_row)
                for c in range(count):
                    line[c] = source[c]
                for c in range(count, width):
                    line[c] = np.float32(0)
            continue
        for c in range(width):
            column = f32_at(target + 4 * c)
            for k in range(depth):
                column[k * width] = f32_at(base + k * b_row + c * b_column)[0] if c < count else np.float32(0)


def multiply_floats(
    lo, hi, worker, a, y, packed, inner, a_outer, a_inner, a_row, y_outer, y_inner, y_row, depth, tall, tall_tiles,
    tiles, block, blocks, panel_count, width, big, small, last_big, last_small,
):  # fmt: skip
    """Blocks of row tiles of one matrix; a unit is a block, strides are in bytes."""
    for unit in range(lo, hi):
        matrix = unit // blocks
        first_tile = (unit - matrix * blocks) * block
        last_tile = min(first_tile + block, tiles)
        outer = matrix // inner
        index = matrix - outer * inner
        source = a + outer * a_outer + index * a_inner
        target = y + outer * y_outer + index * y_inner
        first = first_tile * tall - max(0, first_tile - tall_tiles)
        for p in range(panel_count):
            panel = packed + 4 * (matrix * panel_count + p) * depth * width
            row = first
            for tile in range(first_tile, last_tile):
                tallest = tile < tall_tiles
                if p == panel_count - 1:
                    kernel = last_big if tallest else last_small
                else:
                    kernel = big if tallest else small
                call6(kernel, source + row * a_row, a_row, panel, target + row * y_row + 4 * p * width, y_row, depth)
                row += tall if tallest else tall - 1
