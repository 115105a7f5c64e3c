"""Tables and lines for each channel: functions of a code and of constants along one axis; tables of float32 entries."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import encode, limited
from graphopt.kernels.loops.core.memory import address_of, call4

TILE = 4096  # elements of a tile where channels do not matter
BLOCK = 64  # channels whose tables stay in L1 while all rows pass


def map_channels(lo, hi, worker, x, y, rows, channels, tables):
    """y[r, c] = tables[c, x[r, c]], channels side by side; a tile is a block of channels."""
    for tile in range(lo, hi):
        first = tile * BLOCK
        last = min(first + BLOCK, channels)
        for row in range(rows):
            at = row * channels
            for c in range(first, last):
                y[at + c] = tables[256 * c + x[at + c]]


def map_planes(lo, hi, worker, x, y, channels, inner, tables, lookup):
    """y[o, c, i] = tables[c, x[o, c, i]] for bytes; a tile is one channel of one outer index."""
    for tile in range(lo, hi):
        at = tile * inner
        table = address_of(tables) + 256 * (tile % channels)
        call4(lookup, address_of(x) + at, address_of(y) + at, inner, table)


def map_lines(lo, hi, worker, x, y, channels, stride, lines, zero, low, high):
    """y[r, c] = clip(round(x[r, c] · lines[c] + lines[channels + c]) + zero), y's rows at a stride; a tile is a row."""
    for row in range(lo, hi):
        at, to = row * channels, row * stride
        for c in range(channels):
            v = np.float32(np.float32(np.float32(np.int32(x[at + c])) * lines[c]) + lines[channels + c])
            y[to + c] = limited(v, zero, low, high)


def quantize_lines(lo, hi, worker, x, y, channels, stride, numbers):
    """QuantizeLinear of a line of each channel; `numbers` holds slopes, shifts, scales, zero points and both limits."""
    for row in range(lo, hi):
        at, to = row * channels, row * stride
        for c in range(channels):
            v = np.float32(np.float32(x[at + c] * numbers[c]) + numbers[channels + c])
            low, high = numbers[4 * channels + c], numbers[5 * channels + c]
            y[to + c] = encode(v, numbers[2 * channels + c], numbers[3 * channels + c], low, high)


def map_floats(lo, hi, worker, x, y, count, table):
    """y = table[x], codes to float32."""
    for i in range(lo * TILE, min(hi * TILE, count)):
        y[i] = table[x[i]]
