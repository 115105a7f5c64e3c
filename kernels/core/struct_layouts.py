"""Layouts that Python fills and compiled code reads: records of arguments, and records in memory.

A record of arguments is a NamedTuple of `int` (int64) and `float` (float32) fields. A step's descriptor holds it field
by field, and the loop reads its fields as attributes: the machine code equals that of separate parameters.

A record in memory is a row of int64 words, numbered by the classes below; a float is its bits in the low half.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar, get_type_hints

Record = tuple[float, ...]  # an instance of a NamedTuple
Kind = str | type[Record]
_KINDS = {int: "i64", float: "f32"}


@cache
def record_words(parameter: str, record: type[Record]) -> tuple[tuple[str, str], ...]:
    """Names (parameter.field) and kinds of the descriptor words of a record of arguments.

    Cached so that every step shares the name strings: a pickled plan holds each once.
    """
    return tuple((f"{parameter}.{name}", _KINDS[hint]) for name, hint in get_type_hints(record).items())


def descriptor_words(fields: Mapping[str, Kind]) -> dict[str, str]:
    """Name and kind of each word of a step's descriptor, records taken apart."""
    words: dict[str, str] = {}
    for name, kind in fields.items():
        words.update([(name, kind)] if isinstance(kind, str) else record_words(name, kind))
    return words


class Row:
    """Words of a step in a program's table."""

    FUNCTION = 0
    DESCRIPTOR = 1
    TILES = 2
    GRAIN = 3
    WORDS = 4


class Control:
    """Words of the control block that workers share; `WORKERS` starts a cache line for each worker."""

    DONE = 0  # tiles done of the step
    YIELD = 16  # address of the system call that yields
    SPINS = 17  # pauses before it is called
    STAMPS = 18  # address of the time-stamps, or 0
    WORKERS = 24


class Panel:
    """Words of the record of a panel of packed weights, which register tiles read."""

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


class DepthwiseRecord:
    """Words of the record of a block of channels of a depthwise convolution; offsets are relative to the record."""

    WEIGHTS = 0
    BIAS = 1  # int32 per channel, zero points folded in
    SCALE = 2  # float32 per channel
    LOW = 3  # least output less its zero point
    HIGH = 4
    ZERO = 5  # zero point of the output
    X_STEP = 6  # bytes between the taps of neighbouring output pixels
    Y_STEP = 7  # bytes between output pixels
    FIRST = 8  # first channel of the block
    FUNCTION = 9  # micro-kernel
    WORDS = 10


class WinogradRecord:
    """Words of the record that Winograd's product kernel and its loop read."""

    V_ROW = 0  # bytes between tiles in V
    STEPS = 1  # unrolled steps of the depth
    POSITIONS = 2  # positions of one call
    V_POSITION = 3  # bytes between positions
    U_POSITION = 4
    M_POSITION = 5
    GROUPS = 6  # vectors of channels in a row of V
    PAIRS = 7  # pairs of channels in U
    WORDS = 8
    UNROLL = 2  # pairs of channels in a step
