"""Depthwise convolution: one tile is one row of the output image."""

# mypy: ignore-errors

from __future__ import annotations

from graphopt.kernels.loops.core.memory import address_of, call4, i64_at


def depthwise(
    lo, hi, worker, x, y, records, blocks, record_words, function_word, zero_row, height, width, channels,
    out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left,
    slots, slot_h, slot_w, first_inner, last_inner, lookup, table, scratch, scratch_bytes,
):  # fmt: skip
    """Row by row: point at the taps of a run of pixels, compute each block of channels, map the row by the table.

    Taps outside the image point at `zero_row`, which holds the zero point. Pixels first_inner … last_inner − 1 need no
    horizontal padding and form one run; every other pixel is a run of its own. Tap (h, w) has slot h · slot_h + w ·
    slot_w; the other slots, whose weights are zero, stay at `zero_row`.
    """
    pointers = i64_at(scratch + worker * scratch_bytes)
    source = address_of(x)
    blank = address_of(zero_row)
    for slot in range(slots):
        pointers[slot] = blank
    for tile in range(lo, hi):
        image = tile // out_height
        row = tile - image * out_height
        target = address_of(y) + tile * out_width * channels
        pixel = 0
        while pixel < out_width:
            count = last_inner - first_inner if pixel == first_inner and last_inner > first_inner else 1
            for h in range(kernel_h):
                above = row * stride_h - top + h * dilation_h
                base = source + (image * height + above) * width * channels
                for w in range(kernel_w):
                    across = pixel * stride_w - left + w * dilation_w
                    inside = 0 <= above < height and 0 <= across < width
                    pointers[h * slot_h + w * slot_w] = base + across * channels if inside else blank
            for block in range(blocks):
                record = address_of(records) + 8 * record_words * block
                words = i64_at(record)
                at = target + pixel * channels + words[8]
                call4(words[function_word], address_of(pointers), record, at, count)
            pixel += count
        if lookup != 0:
            call4(lookup, target, target, out_width * channels, address_of(table))
