"""Products of two activations: the second operand is packed into panels while running, once for each matrix."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.loops.core.memory import call6, i8_at, i32_at, i64_at, u8_at
from graphopt.kernels.loops.products.tiles import first_row, place

BIG, SMALL, FIRST, CHANNELS = Panel.BIG, Panel.SMALL, Panel.FIRST, Panel.CHANNELS
WEIGHTS, BIAS, WORDS = Panel.WEIGHTS, Panel.BIAS, Panel.WORDS


def pack(lo, hi, worker, b, packed, bias, records, template, widths, strides, sizes):
    """One panel of one matrix: s8 [quad][width][4] of b xor flip, zeros beyond the depth, and its record and bias.

    With stored u8 a and s8 b, Σ (a − za)(b − zb) = Σ ab − za Σ b + depth za zb − zb Σ a: the second and the third term
    are the channel's bias, the last is the row's.
    """
    depth, quads = sizes.depth, sizes.quads
    b_row, b_column = strides.row, strides.column
    mask = np.int8(sizes.flip)
    constant = np.int32(depth * sizes.a_zero * sizes.b_zero)
    for unit in range(lo, hi):
        matrix = unit // sizes.panels
        panel = unit - matrix * sizes.panels
        source = template + 8 * WORDS * panel
        record = i64_at(records + 8 * WORDS * unit)
        for i in range(WORDS):
            record[i] = i64_at(source)[i]
        target = packed + matrix * sizes.packed_bytes + record[WEIGHTS]
        record[WEIGHTS] = target
        record[BIAS] += bias + matrix * sizes.bias_bytes
        width, count = widths[panel], record[CHANNELS]
        base = place(b, strides, matrix, sizes.inner) + record[FIRST] * b_column
        sums = i32_at(record[BIAS])
        for c in range(width):
            sums[c] = np.int32(0)
        for q in range(quads):
            line = i8_at(target + 4 * width * q)
            row = base + 4 * q * b_row
            if 4 * q + 4 <= depth and b_column == 1:
                r0, r1, r2, r3 = i8_at(row), i8_at(row + b_row), i8_at(row + 2 * b_row), i8_at(row + 3 * b_row)
                for c in range(count):
                    v0, v1 = np.int8(r0[c] ^ mask), np.int8(r1[c] ^ mask)
                    v2, v3 = np.int8(r2[c] ^ mask), np.int8(r3[c] ^ mask)
                    line[4 * c], line[4 * c + 1], line[4 * c + 2], line[4 * c + 3] = v0, v1, v2, v3
                    sums[c] = np.int32(sums[c] + np.int32(v0) + np.int32(v1) + np.int32(v2) + np.int32(v3))
                for i in range(4 * count, 4 * width):
                    line[i] = np.int8(0)
                continue
            if 4 * q + 4 <= depth and b_row == 1:
                words, mask4 = (
                    i32_at(target + 4 * width * q),
                    np.int32(np.int32(mask) & np.int32(0x80808080 - (1 << 32))),
                )
                for c in range(count):
                    words[c] = i32_at(row + c * b_column)[0] ^ mask4
                for c in range(count, width):
                    words[c] = np.int32(0)
                for c in range(count):
                    v0, v1, v2, v3 = line[4 * c], line[4 * c + 1], line[4 * c + 2], line[4 * c + 3]
                    sums[c] = np.int32(sums[c] + np.int32(v0) + np.int32(v1) + np.int32(v2) + np.int32(v3))
                continue
            for c in range(width):
                for i in range(4):
                    value = np.int8(0)
                    if c < count and 4 * q + i < depth:
                        value = np.int8(i8_at(row + i * b_row + c * b_column)[0] ^ mask)
                    line[4 * c + i] = value
                    sums[c] = np.int32(sums[c] + np.int32(value))
        for c in range(width):
            sums[c] = np.int32(constant - np.int32(sizes.a_zero) * sums[c])


def multiply(
    lo, hi, worker, a, y, records, row_scales, a_strides, y_strides, cut, inner, depth, panels, element, flip, b_zero,
    scratch, scratch_bytes,
):  # fmt: skip
    """Blocks of row tiles of one matrix; a unit is a block. The term of a row, b_zero · Σ a, is summed first."""
    table = scratch + worker * scratch_bytes
    terms = table + 8 * cut.block * cut.tall
    pointers, zeros = i64_at(table), i32_at(terms)
    for unit in range(lo, hi):
        matrix = unit // cut.blocks
        first_tile = (unit - matrix * cut.blocks) * cut.block
        last_tile = min(first_tile + cut.block, cut.tiles)
        source, target = place(a, a_strides, matrix, inner), place(y, y_strides, matrix, inner)
        first, last = first_row(cut, first_tile), first_row(cut, last_tile)
        for row in range(first, last):
            pointers[row - first] = source + row * a_strides.row
            total = np.int32(0)
            if b_zero != 0:
                line = u8_at(source + row * a_strides.row)
                for k in range(depth):
                    total = np.int32(total + np.int32(np.uint8(line[k] ^ flip)))
            zeros[row - first] = np.int32(total * np.int32(b_zero))
        for p in range(panels):
            record = records + 8 * WORDS * (matrix * panels + p)
            words = i64_at(record)
            begin = target + words[FIRST] * element
            row = first
            for tile in range(first_tile, last_tile):
                tall = tile < cut.tall_tiles
                kernel = words[BIG] if tall else words[SMALL]
                at = row - first
                call6(kernel, table + 8 * at, record, begin + row * y_strides.row, 0, row_scales, terms + 4 * at)
                row += cut.tall if tall else cut.tall - 1
