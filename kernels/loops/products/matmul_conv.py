"""The driver of matrix products and convolutions: blocks of row tiles × panels of weights, pointers to each row."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.loops.core.memory import address_of, call6, i16_at, i64_at, u8_at
from graphopt.kernels.loops.products.tiles import first_row

BIG, SMALL, FIRST, CHANNELS = Panel.BIG, Panel.SMALL, Panel.FIRST, Panel.CHANNELS
WORDS = Panel.WORDS


def multiply(
    lo, hi, worker, x, x_wide, y, residual, row_scales, row_zeros, border, border_wide, table, panels, taps, shape, cut,
    sizes, scratch, scratch_bytes,
):  # fmt: skip
    """Units lo … hi − 1; unit = block of `block` row tiles × one of `chunks` shares of the panels.

    A row is an output pixel; tile t has `tall` rows for t < `tall_tiles`, one fewer after. For each block the pointers
    of all its rows are laid out first, [tile][plane][tap][row]: x where the tap is inside the image, `border` (a pixel
    of zero points) elsewhere; if `wide`, a like table for the int16 copy follows each tile's. taps: (dy, dx, bytes).
    """
    base = scratch + worker * scratch_bytes
    pointers = i64_at(base)
    segments = sizes.planes * sizes.taps
    filled = -1
    reach_y, reach_x = taps[3 * sizes.taps - 3], taps[3 * sizes.taps - 2]  # the last tap lies farthest on both axes
    dense = (sizes.taps == 1) & (shape.stride_y == 1) & (shape.stride_x == 1) & (shape.pad_y == 0) & (shape.pad_x == 0)
    dense &= (shape.out_width == shape.width) & (shape.out_height == shape.height)
    for unit in range(lo, hi):
        part = unit // sizes.chunks
        chunk = unit - part * sizes.chunks
        first_tile = part * cut.block
        last_tile = min(first_tile + cut.block, cut.tiles)
        if part != filled:
            filled = part
            entry = 0
            row = first_row(cut, first_tile)
            line = row // shape.out_width
            column = row - line * shape.out_width
            image = line // shape.out_height
            line -= image * shape.out_height
            for tile in range(first_tile, last_tile):
                rows = cut.tall if tile < cut.tall_tiles else cut.tall - 1
                if dense:
                    for r in range(rows):
                        pointers[entry + r] = x + (row + r) * shape.pixel
                    row += rows
                else:
                    for r in range(rows):
                        top, left = line * shape.stride_y - shape.pad_y, column * shape.stride_x - shape.pad_x
                        origin = x + ((image * shape.height + top) * shape.width + left) * shape.pixel
                        place = entry + r
                        if (top >= 0) & (left >= 0) & (top + reach_y < shape.height) & (left + reach_x < shape.width):
                            for tap in range(sizes.taps):
                                pointers[place] = origin + taps[3 * tap + 2]
                                place += rows
                        else:
                            for tap in range(sizes.taps):
                                i, j = top + taps[3 * tap], left + taps[3 * tap + 1]
                                inside = (i >= 0) & (i < shape.height) & (j >= 0) & (j < shape.width)
                                pointers[place] = origin + taps[3 * tap + 2] if inside else border
                                place += rows
                        column += 1
                        if column == shape.out_width:
                            column = 0
                            line += 1
                            if line == shape.out_height:
                                line = 0
                                image += 1
                for again in range(sizes.taps * rows, segments * rows):
                    pointers[entry + again] = pointers[entry + again - sizes.taps * rows]
                entry += segments * rows
                if sizes.wide != 0:
                    for p in range(entry - segments * rows, entry):
                        inside = pointers[p] != border
                        pointers[p + segments * rows] = x_wide + 2 * (pointers[p] - x) if inside else border_wide
                    entry += segments * rows
        for p in range(sizes.panels * chunk // sizes.chunks, sizes.panels * (chunk + 1) // sizes.chunks):
            word = p * WORDS
            record = address_of(panels) + 8 * word
            first = panels[word + FIRST]
            channels = panels[word + CHANNELS]
            entry = base
            for tile in range(first_tile, last_tile):
                rows = cut.tall if tile < cut.tall_tiles else cut.tall - 1
                row = first_row(cut, tile)
                kernel = panels[word + BIG] if tile < cut.tall_tiles else panels[word + SMALL]
                target = y + row * sizes.y_pixel + first * sizes.element
                other = residual + row * sizes.r_pixel + first
                scales, zeros = row_scales + 4 * row, row_zeros + 4 * row
                call6(kernel, entry, record, target, other, scales, zeros)
                entry += 8 * segments * rows * (2 if sizes.wide != 0 else 1)
                if table != 0:
                    lookup = u8_at(table)
                    for r in range(rows):
                        line_bytes = u8_at(target + r * sizes.y_pixel)
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
