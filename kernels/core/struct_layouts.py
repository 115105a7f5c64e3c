"""The layout of records that Python fills and compiled code reads."""

from __future__ import annotations

from typing import ClassVar


class Panel:
    """Words of a panel's record: `WORDS` int64 each, floats as the bits in the low half."""

    WEIGHTS = 0  # packed weights
    SEGMENTS = 1  # pointers per row
    STEPS = 2  # unrolled groups of four per segment
    OFFSET = 3  # bytes from a row's pointer to this group's channels
    Y_STRIDE = 4  # bytes between output rows
    R_STRIDE = 5  # bytes between residual rows
    BIAS = 6  # int32 per channel, zero points folded in
    SCALE = 7  # float32 per channel
    LOW = 8  # least output less zero point
    HIGH = 9
    ZERO = 10  # zero point of the output
    SUMS = 11  # int32 per channel: sum of weights
    FLOAT_BIAS = 12  # float32 per channel
    COUNTS = 13
    DEPTHS = 14
    INNER_LOW = 15  # limits of the value before the residual is added, less its zero point
    INNER_HIGH = 16
    INNER_SCALE = 17
    R_SCALE = 18
    R_ZERO = 19
    Y_SCALE = 20
    BIG = 21  # micro-kernels for the two heights of tiles
    SMALL = 22
    FIRST = 23  # first output channel
    CHANNELS = 24  # channels stored; fewer than are computed when the panel is the last
    FLIP = 25  # 64 bytes of 0x80, which turn s8 activations into u8
    TABLE = 26  # 256 bytes that map the output's codes, where the register tile itself looks them up
    WORDS = 28

    FLOATS: ClassVar[dict[str, int]] = {
        "LOW": LOW, "HIGH": HIGH, "INNER_LOW": INNER_LOW, "INNER_HIGH": INNER_HIGH,
        "INNER_SCALE": INNER_SCALE, "R_SCALE": R_SCALE, "R_ZERO": R_ZERO, "Y_SCALE": Y_SCALE,
    }  # fmt: skip


class Channels:
    """Words of a record for a block of channels of a depthwise convolution; offsets are relative to the record."""

    WEIGHTS = 0
    BIAS = 1  # int32 per channel, zero points folded in
    SCALE = 2  # float32 per channel
    LOW = 3  # least output less its zero point, float32 bits
    HIGH = 4
    ZERO = 5  # zero point of the output
    X_STEP = 6  # bytes between the taps of neighbouring output pixels
    Y_STEP = 7  # bytes between output pixels
    FIRST = 8  # first channel of the block
    FUNCTION = 9  # micro-kernel
    WORDS = 10
