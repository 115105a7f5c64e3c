"""Softmax of rows: of codes, by tables of the exponentials and of the results, and of float32."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.arithmetic import code_limits, limited
from graphopt.kernels.loops.core.exponential import LEAST, float_of_bits, powers_of_two
from graphopt.kernels.loops.core.memory import address_of, call4, f32_at, u8_at
from graphopt.kernels.loops.core.reduction import greatest, total

FAR = np.float32(4096)  # up to here n ln 2 is exact to 4e-8, as powers_of_two needs it
SHORT = 128  # columns below which a table of all 256 results does not pay


def softmax_codes(lo, hi, worker, x, y, rows, columns, flip, weights, exponentials, qy, lookup, scratch, scratch_bytes):
    """Rows of 8-bit codes to 8-bit codes; a tile is a row.

    exponentials[255 − d] = exp(−d · scale) in float32 and weights[255 − d] the same times 2²⁴, rounded: the sum of a
    row is exact in integers, whatever the order. A row's factor is 2²⁴ / (Σ weights · y scale).
    """
    table = u8_at(scratch + worker * scratch_bytes)
    zero, low, high = code_limits(qy)
    inverse_scale = np.float64(1) / np.float64(qy.scale)
    for row in range(lo, hi):
        at = row * columns
        top = np.uint8(0)
        for i in range(columns):
            v = np.uint8(x[at + i] ^ flip)
            top = v if v > top else top
        shift = 255 - np.int64(top)
        whole = np.int64(0)
        for i in range(columns):
            whole += np.int64(weights[shift + np.int64(x[at + i] ^ flip)])
        factor = np.float32(np.float64(16777216) / np.float64(whole) * inverse_scale)
        if columns < SHORT:
            for i in range(columns):
                y[at + i] = np.uint8(
                    limited(np.float32(exponentials[shift + np.int64(x[at + i] ^ flip)] * factor), zero, low, high)
                )
            continue
        for code in range(256 - shift):
            table[code] = np.uint8(limited(np.float32(exponentials[shift + code] * factor), zero, low, high))
        if flip != 0:
            for code in range(128):
                table[256 + code], table[384 + code] = table[128 + code], table[code]
        call4(
            lookup, address_of(x) + at, address_of(y) + at, columns,
            scratch + worker * scratch_bytes + (256 if flip != 0 else 0),
        )  # fmt: skip


def softmax_floats(lo, hi, worker, x, y, columns, unknown, scratch, scratch_bytes):
    """y = exp(x − max) / Σ over float32 rows; a tile is a row. −inf gives 0, a row of −inf alone `unknown`.

    exp(x) is 2ⁿ exp(r); a row is divided by the power of two of its maximum, so that small results carry no rounding
    error of x − max. Rows whose maximum is far from 0 are shifted to 0 first.
    """
    lanes = f32_at(scratch + worker * scratch_bytes)
    for row in range(lo, hi):
        at = row * columns
        values, powers = f32_at(address_of(x) + 4 * at), f32_at(address_of(y) + 4 * at)
        top = greatest(values, columns, lanes)
        base = np.float32(0) if np.abs(top) < FAR else top
        least = np.float32(np.float32(top - base) + LEAST)
        bits, _ = powers_of_two(np.float32(top - base))
        scale = np.int32(np.int32(127 << 23) - np.int32(bits << np.int32(23)))
        for i in range(columns):
            v = np.float32(values[i] - base)
            bits, e = powers_of_two(v)
            power = float_of_bits(np.int32(np.int32(bits << np.int32(23)) + scale))
            powers[i] = np.float32(0) if v < least else np.float32(e * power)
        factor = np.float32(np.float32(1) / total(powers, columns, lanes))
        if factor != factor:
            for i in range(columns):
                powers[i] = unknown
            continue
        for i in range(columns):
            powers[i] = np.float32(powers[i] * factor)
