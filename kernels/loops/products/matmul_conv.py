"""The driver of matrix products and convolutions: which rows meet which panel of weights, and where each row lies."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.loops.core.memory import address_of, call6, i16_at, i64_at, u8_at

BIG, SMALL, FIRST, CHANNELS = Panel.BIG, Panel.SMALL, Panel.FIRST, Panel.CHANNELS
WORDS = Panel.WORDS


def multiply(
    lo, hi, worker, x, x_wide, y, residual, row_scales, row_zeros, border, border_wide, table, panels, taps, tap_count,
    planes, height, width, pixel, out_height, out_width, stride_y, stride_x, pad_y, pad_x, tall, tall_tiles, tiles,
    block, chunks, panel_count, element, y_pixel, r_pixel, wide, scratch, scratch_bytes,
):  # fmt: skip
    """Units lo … hi − 1; unit = block of `block` row tiles × one of `chunks` shares of the panels.

    A row is an output pixel; tile t has `tall` rows for t < `tall_tiles`, one fewer after. For each block the pointers
    of all its rows are laid out first, [tile][plane][tap][row]: x where the tap is inside the image, `border` (a pixel
    of zero points) elsewhere; if `wide`, a like table for the int16 copy follows each tile's. taps: (dy, dx, bytes).
    """
    base = scratch + worker * scratch_bytes
    pointers = i64_at(base)
    segments = planes * tap_count
    filled = -1
    reach_y, reach_x = taps[3 * tap_count - 3], taps[3 * tap_count - 2]  # the last tap lies farthest on both axes
    dense = (tap_count == 1) & (stride_y == 1) & (stride_x == 1) & (pad_y == 0) & (pad_x == 0)
    dense &= (out_width == width) & (out_height == height)
    for unit in range(lo, hi):
        part = unit // chunks
        chunk = unit - part * chunks
        first_tile = part * block
        last_tile = min(first_tile + block, tiles)
        if part != filled:
            filled = part
            entry = 0
            row = first_tile * tall - max(0, first_tile - tall_tiles)
            line = row // out_width
            column = row - line * out_width
            image = line // out_height
            line -= image * out_height
            for tile in range(first_tile, last_tile):
                rows = tall if tile < tall_tiles else tall - 1
                if dense:
                    for r in range(rows):
                        pointers[entry + r] = x + (row + r) * pixel
                    row += rows
                else:
                    for r in range(rows):
                        top, left = line * stride_y - pad_y, column * stride_x - pad_x
                        origin = x + ((image * height + top) * width + left) * pixel
                        place = entry + r
                        if (top >= 0) & (left >= 0) & (top + reach_y < height) & (left + reach_x < width):
                            for tap in range(tap_count):
                                pointers[place] = origin + taps[3 * tap + 2]
                                place += rows
                        else:
                            for tap in range(tap_count):
                                i, j = top + taps[3 * tap], left + taps[3 * tap + 1]
                                inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
                                pointers[place] = origin + taps[3 * tap + 2] if inside else border
                                place += rows
                        column += 1
                        if column == out_width:
                            column = 0
                            line += 1
                            if line == out_height:
                                line = 0
                                image += 1
                for again in range(tap_count * rows, segments * rows):
                    pointers[entry + again] = pointers[entry + again - tap_count * rows]
                entry += segments * rows
                if wide != 0:
                    for p in range(entry - segments * rows, entry):
                        inside = pointers[p] != border
                        pointers[p + segments * rows] = x_wide + 2 * (pointers[p] - x) if inside else border_wide
                    entry += segments * rows
        for p in range(panel_count * chunk // chunks, panel_count * (chunk + 1) // chunks):
            word = p * WORDS
            record = address_of(panels) + 8 * word
            first = panels[word + FIRST]
            channels = panels[word + CHANNELS]
            entry = base
            for tile in range(first_tile, last_tile):
                rows = tall if tile < tall_tiles else tall - 1
                row = tile * tall if tile < tall_tiles else tall_tiles * tall + (tile - tall_tiles) * (tall - 1)
                kernel = panels[word + BIG] if tile < tall_tiles else panels[word + SMALL]
                target = y + row * y_pixel + first * element
                other = residual + row * r_pixel + first
                scales, zeros = row_scales + 4 * row, row_zeros + 4 * row
                call6(kernel, entry, record, target, other, scales, zeros)
                entry += 8 * segments * rows * (2 if wide != 0 else 1)
                if table != 0:
                    lookup = u8_at(table)
                    for r in range(rows):
                        line_bytes = u8_at(target + r * y_pixel)
                        for i in range(channels):
                            line_bytes[i] = lookup[line_bytes[i]]


def widen(lo, hi, worker, x, y, count, flip):
    """y = int16(u8(x xor flip)), tiles of 16384 bytes: the copy that groups of weights not proved safe read."""
    target = i16_at(y)
    for i in range(lo * 16384, min(hi * 16384, count)):
        target[i] = x[i] ^ flip


def pad(lo, hi, worker, x, y, height, width, pixel, top, left, padded_height, padded_width, zero_point):
    """NHWC images with a border of zero points; a tile is one padded line."""
    for line in range(lo, hi):
        image = line // padded_height
        i = line - image * padded_height - top
        target = u8_at(y + line * padded_width * pixel)
        if i < 0 or i >= height:
            for k in range(padded_width * pixel):
                target[k] = zero_point
            continue
        source = u8_at(x + (image * height + i) * width * pixel)
        for k in range(left * pixel):
            target[k] = zero_point
        middle = u8_at(y + (line * padded_width + left) * pixel)
        for k in range(width * pixel):
            middle[k] = source[k]
        for k in range((left + width) * pixel, padded_width * pixel):
            target[k] = zero_point
