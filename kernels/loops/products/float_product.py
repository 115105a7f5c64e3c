"""Products of two float32 tensors: the second operand is packed into panels while running, once for each matrix."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.memory import call6, f32_at
from graphopt.kernels.loops.products.tiles import first_row, place


def pack_floats(lo, hi, worker, b, packed, strides, inner, depth, channels, width, panels):
    """One panel of one matrix: [depth][width], zeros beyond the last channel; strides in bytes."""
    b_row, b_column = strides.row, strides.column
    for unit in range(lo, hi):
        matrix = unit // panels
        first = (unit - matrix * panels) * width
        count = min(width, channels - first)
        base = place(b, strides, matrix, inner) + first * b_column
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
    lo, hi, worker, a, y, packed, a_strides, y_strides, cut, inner, depth, panels, width, big, small, last_big,
    last_small,
):  # fmt: skip
    """Blocks of row tiles of one matrix; a unit is a block, strides are in bytes."""
    a_row, y_row = a_strides.row, y_strides.row
    for unit in range(lo, hi):
        matrix = unit // cut.blocks
        first_tile = (unit - matrix * cut.blocks) * cut.block
        last_tile = min(first_tile + cut.block, cut.tiles)
        source, target = place(a, a_strides, matrix, inner), place(y, y_strides, matrix, inner)
        first = first_row(cut, first_tile)
        for p in range(panels):
            panel = packed + 4 * (matrix * panels + p) * depth * width
            row = first
            for tile in range(first_tile, last_tile):
                tallest = tile < cut.tall_tiles
                if p == panels - 1:
                    kernel = last_big if tallest else last_small
                else:
                    kernel = big if tallest else small
                call6(kernel, source + row * a_row, a_row, panel, target + row * y_row + 4 * p * width, y_row, depth)
                row += cut.tall if tallest else cut.tall - 1
