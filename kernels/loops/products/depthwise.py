"""Depthwise convolution: one tile is one row of the output image."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.core.struct_layouts import DepthwiseRecord
from graphopt.kernels.loops.core.memory import address_of, call4, i64_at

FIRST, FUNCTION, WORDS = DepthwiseRecord.FIRST, DepthwiseRecord.FUNCTION, DepthwiseRecord.WORDS


def depthwise(lo, hi, worker, x, y, records, blocks, zero_row, window, taps, lookup, table, scratch, scratch_bytes):
    """Row by row: point at the taps of a run of pixels, compute each block of channels, map the row by the table.

    Taps outside the image point at `zero_row`, which holds the zero point. The pixels from first_inner up to last_inner
    need no horizontal padding and form one run; every other pixel is a run of its own. Unused slots, whose weights are
    zero, stay at `zero_row`.
    """
    pointers = i64_at(scratch + worker * scratch_bytes)
    source = address_of(x)
    blank = address_of(zero_row)
    for slot in range(taps.slots):
        pointers[slot] = blank
    for tile in range(lo, hi):
        image = tile // window.out_height
        row = tile - image * window.out_height
        target = address_of(y) + tile * window.out_width * window.channels
        pixel = 0
        while pixel < window.out_width:
            count = (
                taps.last_inner - taps.first_inner
                if pixel == taps.first_inner and taps.last_inner > taps.first_inner
                else 1
            )
            for h in range(window.kernel_h):
                above = row * window.stride_h - window.top + h * window.dilation_h
                base = source + (image * window.height + above) * window.width * window.channels
                for w in range(window.kernel_w):
                    across = pixel * window.stride_w - window.left + w * window.dilation_w
                    inside = 0 <= above < window.height and 0 <= across < window.width
                    pointers[h * taps.row + w * taps.column] = base + across * window.channels if inside else blank
            for block in range(blocks):
                record = address_of(records) + 8 * WORDS * block
                words = i64_at(record)
                at = target + pixel * window.channels + words[FIRST]
                call4(words[FUNCTION], address_of(pointers), record, at, count)
            pixel += count
        if lookup != 0:
            call4(lookup, target, target, window.out_width * window.channels, address_of(table))
