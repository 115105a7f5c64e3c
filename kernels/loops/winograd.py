"""Winograd convolution of one block of tiles after another: transform, multiply panel by panel, transform back."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.loops.core.memory import address_of, call4, call6, call8, i64_at, u8_at


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
    lo, hi, worker, x, y, r, scratch, scratch_bytes, weights, panel_bytes, records, record_bytes, product, rows_of_g,
    table, look_up, transform_input, multiply, transform_output, transform_weights, m, count, block, splits, panels,
    main, tail, width, height_in, width_in, channels, height_out, width_out, channels_out, item, pad_top, pad_left,
    zero_point, v_at, m_at, u_at, patch_at, offsets_at, dump_at, staging_at,
):  # fmt: skip
    """Units lo … hi − 1: unit = block · splits + part, a block of tiles by a part of the output channels' panels.

    The offsets in scratch: V, M and U, the patch of a tile that leaves the image, three tables of pixel offsets (of y,
    of the residual, of the staging area), the row that takes pixels outside the image, and the staging area where a
    panel with fewer channels than its width is written first.
    """
    base = scratch + worker * scratch_bytes
    size = m + 2
    pixels = m * m
    tiles_x = (width_out + m - 1) // m
    tiles_y = (height_out + m - 1) // m
    v_row, v_position, m_position = product[0], product[3], product[5]
    row_bytes, out_row = width_in * channels, channels_out * item
    groups = product[6]
    y_offsets = i64_at(base + offsets_at)
    r_offsets = i64_at(base + offsets_at + 8 * block * pixels)
    staged = i64_at(base + offsets_at + 16 * block * pixels)
    dump, staging, patch = base + dump_at, base + staging_at, base + patch_at
    product_address = address_of(product)
    transformed = np.int64(-1)
    for unit in range(lo, hi):
        first = unit // splits * block
        tiles = min(block, count - first)
        if first != transformed:
            transformed = first
            for i in range(tiles):
                tile = first + i
                image = tile // (tiles_y * tiles_x)
                within = tile - image * tiles_y * tiles_x
                out_y, out_x = within // tiles_x * m, within % tiles_x * m
                top, left = out_y - pad_top, out_x - pad_left
                start = x + ((image * height_in + top) * width_in + left) * channels
                step = row_bytes
                if top < 0 or left < 0 or top + size > height_in or left + size > width_in:
                    before = min(size, max(0, -left))
                    inside = max(0, min(left + size, width_in) - max(left, 0))
                    step = size * channels
                    for row in range(size):
                        target = patch + row * step
                        if top + row < 0 or top + row >= height_in:
                            _fill(target, step, zero_point)
                            continue
                        _fill(target, before * channels, zero_point)
                        _copy(
                            target + before * channels, start + row * row_bytes + before * channels, inside * channels
                        )
                        after = before + inside
                        _fill(target + after * channels, (size - after) * channels, zero_point)
                    start = patch
                call6(transform_input, start, step, channels, base + v_at + i * v_row, v_position, groups)
                for pixel in range(pixels):
                    py, px = out_y + pixel // m, out_x + pixel % m
                    place = i * pixels + pixel
                    staged[place] = place * width * item
                    if py < height_out and px < width_out:
                        index = (image * height_out + py) * width_out + px
                        y_offsets[place] = index * out_row
                        r_offsets[place] = index * channels_out
                    else:
                        y_offsets[place] = dump - y
                        r_offsets[place] = 0
        part = unit % splits
        mains = tiles // main
        tails = 0
        if tiles > mains * main:
            if tail > 0 and tiles - mains * main <= tail:
                tails = 1
            else:
                mains += 1
        for panel in range(panels * part // splits, panels * (part + 1) // splits):
            if transform_weights == 0:
                call6(multiply, base + v_at, weights + panel * panel_bytes, base + m_at, mains, tails, product_address)
            else:
                for row in range(size):
                    call6(
                        transform_weights, weights + panel * panel_bytes, base + u_at, product[4], product[7],
                        rows_of_g + 6 * row, 0,
                    )  # fmt: skip
                    call6(
                        multiply, base + v_at + row * size * v_position, base + u_at,
                        base + m_at + row * size * m_position, mains, tails, product_address,
                    )  # fmt: skip
            record = records + panel * record_bytes
            channel = panel * width
            stored = min(width, channels_out - channel)
            y_panel, r_panel, places = y + channel * item, r + channel, base + offsets_at
            if stored < width:
                y_panel, places = staging, base + offsets_at + 16 * block * pixels
            call8(
                transform_output, base + m_at, m_position, tiles, places, y_panel,
                base + offsets_at + 8 * block * pixels, r_panel, record,
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
