"""Winograd convolution of one block of tiles after another: transform, multiply panel by panel, transform back."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.core.struct_layouts import Panel, WinogradRecord
from graphopt.kernels.loops.core.memory import address_of, call4, call6, call8, i8_at, i64_at, u8_at

GROUPS, PAIRS, V_ROW = WinogradRecord.GROUPS, WinogradRecord.PAIRS, WinogradRecord.V_ROW
V_POSITION, U_POSITION, M_POSITION = WinogradRecord.V_POSITION, WinogradRecord.U_POSITION, WinogradRecord.M_POSITION
WORDS = Panel.WORDS


@register_jitable
def _fill(target, count, value):
    bytes_ = u8_at(target)
    for i in range(count):
        bytes_[i] = value


@register_jitable
def _copy(target, source, count):
    to, start = u8_at(target), u8_at(source)
    for i in range(count):
        to[i] = start[i]


def convolve(
    lo, hi, worker, x, y, r, weights, records, product, rows_of_g, table, look_up, transform_input, multiply,
    transform_output, transform_weights, shape, cut, at, scratch,
):  # fmt: skip
    """Units lo … hi − 1: unit = block · splits + part, a block of tiles by a part of the output channels' panels.

    product: words of `WinogradRecord`; at: offsets in scratch, a `ScratchLayout`.
    """
    base = scratch + worker * at.size
    m, width, channels, item = cut.m, cut.width, shape.channels, shape.item
    size = m + 2
    pixels = m * m
    tiles_x = (shape.out_width + m - 1) // m
    tiles_y = (shape.out_height + m - 1) // m
    v_row, v_position, m_position = product[V_ROW], product[V_POSITION], product[M_POSITION]
    row_bytes, out_row = shape.width * channels, shape.out_channels * item
    groups = product[GROUPS]
    y_offsets = i64_at(base + at.offsets)
    r_offsets = i64_at(base + at.offsets + 8 * cut.block * pixels)
    staged = i64_at(base + at.offsets + 16 * cut.block * pixels)
    dump, staging, patch = base + at.dump, base + at.staging, base + at.patch
    product_address = address_of(product)
    transformed = np.int64(-1)
    for unit in range(lo, hi):
        first = unit // cut.splits * cut.block
        tiles = min(cut.block, cut.tiles - first)
        if first != transformed:
            transformed = first
            for i in range(tiles):
                tile = first + i
                image = tile // (tiles_y * tiles_x)
                within = tile - image * tiles_y * tiles_x
                out_y, out_x = within // tiles_x * m, within % tiles_x * m
                top, left = out_y - shape.top, out_x - shape.left
                start = x + ((image * shape.height + top) * shape.width + left) * channels
                step = row_bytes
                if top < 0 or left < 0 or top + size > shape.height or left + size > shape.width:
                    before = min(size, max(0, -left))
                    inside = max(0, min(left + size, shape.width) - max(left, 0))
                    step = size * channels
                    for row in range(size):
                        target = patch + row * step
                        if top + row < 0 or top + row >= shape.height:
                            _fill(target, step, shape.zero_point)
                            continue
                        skipped = before * channels
                        _fill(target, skipped, shape.zero_point)
                        _copy(target + skipped, start + row * row_bytes + skipped, inside * channels)
                        after = before + inside
                        _fill(target + after * channels, (size - after) * channels, shape.zero_point)
                    start = patch
                call6(transform_input, start, step, channels, base + at.v + i * v_row, v_position, groups)
                for pixel in range(pixels):
                    py, px = out_y + pixel // m, out_x + pixel % m
                    place = i * pixels + pixel
                    staged[place] = place * width * item
                    if py < shape.out_height and px < shape.out_width:
                        index = (image * shape.out_height + py) * shape.out_width + px
                        y_offsets[place] = index * out_row
                        r_offsets[place] = index * shape.out_channels
                    else:
                        y_offsets[place] = dump - y
                        r_offsets[place] = 0
        part = unit % cut.splits
        mains = tiles // cut.main
        tails = 0
        if tiles > mains * cut.main:
            if cut.tail > 0 and tiles - mains * cut.main <= cut.tail:
                tails = 1
            else:
                mains += 1
        for panel in range(cut.panels * part // cut.splits, cut.panels * (part + 1) // cut.splits):
            if transform_weights == 0:
                call6(
                    multiply, base + at.v, weights + panel * cut.panel_bytes, base + at.m, mains, tails, product_address
                )
            else:
                for row in range(size):
                    call6(
                        transform_weights, weights + panel * cut.panel_bytes, base + at.u, product[U_POSITION],
                        product[PAIRS], rows_of_g + 6 * row, 0,
                    )  # fmt: skip
                    call6(
                        multiply, base + at.v + row * size * v_position, base + at.u,
                        base + at.m + row * size * m_position, mains, tails, product_address,
                    )  # fmt: skip
            record = records + panel * 8 * WORDS
            channel = panel * width
            stored = min(width, shape.out_channels - channel)
            y_panel, r_panel, places = y + channel * item, r + channel, base + at.offsets
            if stored < width:
                y_panel, places = staging, base + at.offsets + 16 * cut.block * pixels
            call8(
                transform_output, base + at.m, m_position, tiles, places, y_panel,
                base + at.offsets + 8 * cut.block * pixels, r_panel, record,
            )  # fmt: skip
            if stored < width:
                for place in range(tiles * pixels):
                    if y_offsets[place] != dump - y:
                        target = y + y_offsets[place] + channel * item
                        _copy(target, staging + place * width * item, stored * item)
            if table != 0:
                for place in range(tiles * pixels):
                    if y_offsets[place] != dump - y:
                        values = y + y_offsets[place] + channel
                        call4(look_up, values, values, stored, table)


def transform_panels(lo, hi, worker, w, u, w_panel, u_panel, position_bytes, pairs, size, rows_of_g, transform):
    """Transform the weights of panels lo … hi − 1, row by row of G w Gᵀ."""
    for panel in range(lo, hi):
        for row in range(size):
            target = u + panel * u_panel + row * size * position_bytes
            call6(transform, w + panel * w_panel, target, position_bytes, pairs, rows_of_g + 6 * row, 0)


def measure_weights(lo, hi, worker, w, size, positive, negative, least, greatest):
    """The sums of the positive and of the negative weights of channels lo … hi − 1, and their extremes; w: s8."""
    for channel in range(lo, hi):
        row = i8_at(w + channel * size)
        above, below, low, high = np.int64(0), np.int64(0), np.int8(0), np.int8(0)
        for i in range(size):
            value = row[i]
            above += max(value, np.int8(0))
            below += min(value, np.int8(0))
            low, high = min(low, value), max(high, value)
        positive[channel], negative[channel], least[channel], greatest[channel] = above, below, low, high


def pack_plain(lo, hi, worker, w, y, count, channels, depth, width):
    """Panels lo … hi − 1 of s8 weights w [count][channels][9] as y [panel][depth / 2][9][width][2], zeros elsewhere."""
    for panel in range(lo, hi):
        base = y + panel * depth * 9 * width
        for column in range(min(width, count - panel * width)):
            row = i8_at(w + (panel * width + column) * channels * 9)
            target = i8_at(base + 2 * column)
            for channel in range(channels):
                place = (channel // 2 * 9) * 2 * width + channel % 2
                for tap in range(9):
                    target[place + tap * 2 * width] = row[channel * 9 + tap]
