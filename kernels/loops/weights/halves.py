"""Conversion of float16 to float32."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from graphopt.kernels.loops.core.exponential import bits_of_float

WIDENED = 1 << 15
"""Numbers of a tile."""


def widen(lo, hi, worker, x, y, count):
    """float16 bits to float32 bits; a tile is `WIDENED` numbers.

    The exponent's bias is 112 less in float16; numbers below its least exponent are whole multiples of 2⁻²⁴.
    """
    for i in range(lo * WIDENED, min(hi * WIDENED, count)):
        bits = np.int32(x[i])
        magnitude = np.int32(bits & np.int32(0x7FFF))
        shifted = np.int32(magnitude << np.int32(13))
        small = bits_of_float(np.float32(np.float32(magnitude) * np.float32(2.0**-24)))
        found = np.int32(shifted + np.int32(112 << 23)) if magnitude >= np.int32(0x0400) else small
        found = np.int32(shifted + np.int32(224 << 23)) if magnitude >= np.int32(0x7C00) else found
        y[i] = np.int32(found | np.int32(np.int32(bits & np.int32(0x8000)) << np.int32(16)))
