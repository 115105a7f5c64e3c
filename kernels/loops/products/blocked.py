"""Products with weights stored in blocks: rows quantized block by block, panels of weights read once for all rows."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.exponential import float_of_bits
from graphopt.kernels.loops.core.memory import call7, f32_at, i8_at, i32_at

_NUMBER = 0x7FFFFFFF  # the bits of a float32 but its sign; as integers they are ordered as the numbers, NaN above all


def quantize_blocks(lo, hi, worker, x, codes, scales, sums, depth, block, blocks):
    """Each block of a row to s8 by its own scale, and the negated sum of its codes; a tile is a block.

    scale = max|x| / 127; codes = round_half_even(x · (127 / max|x|)), zeros beyond the depth and in a block without a
    finite scale: its infinite or NaN scale then makes the result NaN.
    """
    for unit in range(lo, hi):
        row = unit // blocks
        begin = (unit - row * blocks) * block
        count = min(block, depth - begin)
        at = x + 4 * (row * depth + begin)
        values, bits, target = f32_at(at), i32_at(at), i8_at(codes + unit * block)
        most = np.int32(0)
        for i in range(count):
            own = np.int32(bits[i] & _NUMBER)
            most = own if own > most else most
        greatest = float_of_bits(most)
        inverse = np.float32(np.float32(127) / greatest)
        if not (inverse > np.float32(0) and inverse < np.float32(3e38)):
            scales[unit] = np.float32(0) if greatest < np.float32(1) else greatest
            sums[unit] = np.int32(0)
            for i in range(block):
                target[i] = np.int8(0)
            continue
        total = np.int32(0)
        for i in range(count):
            code = np.int32(np.rint(np.float32(values[i] * inverse)))
            target[i] = np.int8(code)
            total += code
        for i in range(count, block):
            target[i] = np.int8(0)
        scales[unit] = np.float32(greatest / np.float32(127))
        sums[unit] = -total


def multiply_blocked(
    lo, hi, worker, x, x_scales, x_sums, weights, zeros, bias, y, cut, sizes, big, small, scratch, scratch_bytes
):  # fmt: skip
    """y = x · weights + bias; a tile is a panel of channels, read once for all rows."""
    lanes, blocks, block = sizes.lanes, sizes.blocks, sizes.block
    result = f32_at(scratch + worker * scratch_bytes)
    for panel in range(lo, hi):
        first = panel * lanes
        count = min(lanes, sizes.channels - first)
        row = 0
        for tile in range(cut.tiles):
            height = cut.tall if tile < cut.tall_tiles else cut.tall - 1
            call7(
                big if tile < cut.tall_tiles else small, x + row * blocks * block, x_scales + 4 * row * blocks,
                x_sums + 4 * row * blocks, weights + panel * sizes.panel_bytes, zeros + panel * blocks * lanes,
                scratch + worker * scratch_bytes, blocks,
            )  # fmt: skip
            for r in range(height):
                target = f32_at(y + 4 * ((row + r) * sizes.channels + first))
                for c in range(count):
                    target[c] = np.float32(result[r * lanes + c] + bias[first + c])
            row += height
