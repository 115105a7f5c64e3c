"""Attention over caches of keys and values, appending to these caches, and rotary embeddings, in float32.

Keys and values may be kept as rows of codes.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.exponential import LEAST, exp
from graphopt.kernels.loops.core.memory import call4, f32_at, i8_at
from graphopt.kernels.loops.core.reduction import greatest, total

LOWEST = np.float32(np.finfo(np.float32).min)
ZERO = np.float32(2.0**-100)  # rows with no greater element are coded as 0: the inverse of their scale may be infinite


def append(lo, hi, worker, new, past, y, rows, past_stride, y_stride, sizes):
    """y[head] = past[head] followed by the rows of `new`; a tile is one head of one batch element.

    new: [batch, count, heads, size]; past: [tiles] matrices of `rows` rows, past_stride bytes apart, y likewise. Where
    past and y are the same memory, the rows are there already.
    """
    size, heads, count = sizes.size, sizes.heads, sizes.tokens
    for tile in range(lo, hi):
        source, target = past + tile * past_stride, y + tile * y_stride
        if source != target:
            old, kept = f32_at(source), f32_at(target)
            for i in range(rows * size):
                kept[i] = old[i]
        batch = tile // heads
        for r in range(count):
            row = f32_at(new + 4 * size * ((batch * count + r) * heads + tile - batch * heads))
            kept = f32_at(target + 4 * size * (rows + r))
            for i in range(size):
                kept[i] = row[i]


def append_codes(lo, hi, worker, new, past, y, rows, past_stride, y_stride, sizes):
    """`append` with rows of codes: int8 [size], each the nearest to x / scale, followed by the scale max |x| / 127.

    new: float32. Both strides and the rows of past and y are of size + 4 bytes.
    """
    size, heads, count = sizes.size, sizes.heads, sizes.tokens
    for tile in range(lo, hi):
        source, target = past + tile * past_stride, y + tile * y_stride
        if source != target:
            old, kept = i8_at(source), i8_at(target)
            for i in range(rows * (size + 4)):
                kept[i] = old[i]
        batch = tile // heads
        for r in range(count):
            row = f32_at(new + 4 * size * ((batch * count + r) * heads + tile - batch * heads))
            line = target + (size + 4) * (rows + r)
            codes, scale = i8_at(line), f32_at(line + size)
            top = np.float32(0)
            for i in range(size):
                magnitude = np.float32(abs(row[i]))
                top = magnitude if magnitude > top else top
            top = top if top > ZERO else np.float32(0)
            inverse = np.float32(0) if top == np.float32(0) else np.float32(np.float32(127) / top)
            scale[0] = np.float32(top / np.float32(127))
            for i in range(size):
                codes[i] = np.int8(np.rint(np.float32(row[i] * inverse)))


def attend(
    lo, hi, worker, q, keys, values, mask, y, rows, key_stride, value_stride, sizes, scale, scores, sums, scratch,
    scratch_bytes,
):  # fmt: skip
    """softmax(scale · q · keysᵀ + mask) · values; a tile is one row of a few heads that share keys.

    Keys are read once, in chunks, with a running maximum of scores and sum of exponentials (Milakov and Gimelshein,
    2018). A row whose mask excludes all keys, by −inf or the lowest float, gives zeros, as in onnxruntime.
    """
    size, width, chunk, together = sizes.size, sizes.width, sizes.chunk, sizes.together
    subs = sizes.groups // together
    length = rows + sizes.tokens
    own = scratch + worker * scratch_bytes
    lanes, query = f32_at(own), f32_at(own + 256)
    points_at = own + 256 + 4 * together * size
    sums_at = points_at + 4 * together * chunk
    state = f32_at(sums_at + 4 * together * width)
    totals = f32_at(sums_at)
    for tile in range(lo, hi):
        sub = tile % subs
        row = (tile // subs) % sizes.tokens
        matrix = tile // (subs * sizes.tokens)  # batch and head of the keys
        batch = matrix // sizes.heads
        first = (matrix - batch * sizes.heads) * sizes.groups + sub * together
        line = (batch * sizes.tokens + row) * sizes.heads * sizes.groups + first
        given = f32_at(q + 4 * line * size)
        for i in range(together * size):
            query[i] = np.float32(given[i] * scale)
        for i in range(together * width):
            totals[i] = np.float32(0)
        for h in range(together):
            state[2 * h], state[2 * h + 1] = np.float32(-np.inf), np.float32(0)
        for begin in range(0, length, chunk):
            count = min(chunk, length - begin)
            call4(scores, own + 256, keys + matrix * key_stride + begin * sizes.key_bytes, points_at, count)
            for h in range(together):
                points = f32_at(points_at + 4 * h * chunk)
                if mask != 0:
                    place = batch * sizes.mask_batch + (first + h) * sizes.mask_head + row * sizes.mask_row
                    added = f32_at(mask + 4 * (place * length + begin))
                    for i in range(count):
                        points[i] = np.float32(points[i] + added[i])
                top = greatest(points, count, lanes)
                before = state[2 * h]
                top = top if top > before else before
                if top <= LOWEST:
                    for i in range(count):
                        points[i] = np.float32(0)
                    continue
                for i in range(count):
                    d = np.float32(points[i] - top)
                    e = exp(d)
                    points[i] = np.float32(0) if d < LEAST else e
                if top > before:
                    shrink = np.float32(0) if np.float32(before - top) < LEAST else exp(np.float32(before - top))
                    state[2 * h] = top
                    state[2 * h + 1] = np.float32(state[2 * h + 1] * shrink)
                    for i in range(h * width, (h + 1) * width):
                        totals[i] = np.float32(totals[i] * shrink)
                state[2 * h + 1] = np.float32(state[2 * h + 1] + total(points, count, lanes))
            call4(sums, points_at, values + matrix * value_stride + begin * sizes.value_bytes, sums_at, count)
        for h in range(together):
            target = f32_at(y + 4 * (line + h) * width)
            whole = state[2 * h + 1]
            factor = np.float32(0) if whole == np.float32(0) else np.float32(np.float32(1) / whole)
            for i in range(width):
                target[i] = np.float32(totals[h * width + i] * factor)


def rotate(lo, hi, worker, x, y, cos, sin, sizes):
    """Pairs of elements of each head rotated by the angles of their row; a tile is a row of all heads."""
    size, half = sizes.size, sizes.half
    for row in range(lo, hi):
        c, s = f32_at(cos + 4 * row * half), f32_at(sin + 4 * row * half)
        for head in range(sizes.heads):
            at = 4 * size * (row * sizes.heads + head)
            source, target = f32_at(x + at), f32_at(y + at)
            if sizes.interleaved != 0:
                for i in range(half):
                    a, b = source[2 * i], source[2 * i + 1]
                    target[2 * i] = np.float32(np.float32(a * c[i]) - np.float32(b * s[i]))
                    target[2 * i + 1] = np.float32(np.float32(a * s[i]) + np.float32(b * c[i]))
            else:
                for i in range(half):
                    a, b = source[i], source[i + half]
                    target[i] = np.float32(np.float32(a * c[i]) - np.float32(b * s[i]))
                    target[i + half] = np.float32(np.float32(a * s[i]) + np.float32(b * c[i]))
            for i in range(2 * half, size):
                target[i] = source[i]
