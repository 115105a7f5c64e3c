"""Depthwise convolution along a row of pixels: u8 or s8 · s8 (or int16) → int32 → requantized bytes, exact.

The taps of a pixel are read through a table of pointers, one for each tap, that all advance together; so one generator
serves every kernel size, stride, dilation and padding. Channels lie in vectors; the taps to be summed by one dot
instruction are interleaved by shuffles within 16-byte lanes, and the packs of the epilogue undo the permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from llvmlite import ir

from graphopt.kernels.core.struct_layouts import DepthwiseRecord
from graphopt.kernels.micro import dot
from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.rounding import MAGIC, MAGIC_BITS, clamp
from graphopt.kernels.micro.vectors import F32, I8, I16, I32, I64, vector

_PACK_WORDS = {128: "llvm.x86.sse2.packssdw.128", 256: "llvm.x86.avx2.packssdw", 512: "llvm.x86.avx512.packssdw.512"}
_PACK_BYTES = {
    (128, False): "llvm.x86.sse2.packuswb.128", (128, True): "llvm.x86.sse2.packsswb.128",
    (256, False): "llvm.x86.avx2.packuswb", (256, True): "llvm.x86.avx2.packsswb",
    (512, False): "llvm.x86.avx512.packuswb.512", (512, True): "llvm.x86.avx512.packsswb.512",
}  # fmt: skip
Taps = list[list[ir.Value]]
GROUP = {"quads": 4, "pairs": 2, "single": 1}  # taps that one dot instruction sums


def emit(
    module: ir.Module, symbol: str, form: str, width: int, stored: int, columns: int, rows: int, real: int, fresh: int,
    signed_x: bool, signed_y: bool,
) -> None:  # fmt: skip
    """Define void symbol(pointers, record, y, pixels).

    pointers: int64[columns][rows], addresses of the first pixel's taps (`rows` is a multiple of the form's group);
    record: `DepthwiseRecord`, offsets relative to itself; y: the first pixel's output. `width` channels are computed,
    `stored` of them written. Of a pixel's columns the last `fresh` are new, the others are the previous pixel's: a
    column is read once, then added to the sums of all pixels whose window contains it. `real` of the rows are taps, the
    rest fill the last group.
    form: quads (vpdpbusd) | pairs (vpmaddwd) | single (generic IR).
    """
    _, b = op.function(module, symbol, ("pointers", "record", "y", "pixels"))
    pointers, record, y, pixels = b.function.args
    group = GROUP[form]
    groups = rows // group
    read = {"quads": _read_quads, "pairs": _read_pairs, "single": _read_single}[form]
    lanes = {"quads": width // 4, "pairs": 8, "single": 16}[form]
    parts = width // lanes

    first = op.word(b, record, DepthwiseRecord.FIRST)
    starts = [
        [b.add(op.load(b, op.at(b, pointers, 8 * (column * rows + row)), I64, 8), first) for row in range(real)]
        for column in range(columns)
    ]
    weights = _weights(b, record, form, width, columns, groups)
    bias, scale = (
        [
            op.load(b, op.at(b, b.add(record, op.word(b, record, index)), 4 * lanes * part), vector(kind, lanes))
            for part in range(parts)
        ]
        for index, kind in ((DepthwiseRecord.BIAS, I32), (DepthwiseRecord.SCALE, F32))
    )
    low, high = (
        op.splat(b, op.word(b, record, index, F32), lanes) for index in (DepthwiseRecord.LOW, DepthwiseRecord.HIGH)
    )
    zero = b.sub(b.trunc(op.word(b, record, DepthwiseRecord.ZERO), I32), I32(MAGIC_BITS))
    zero = op.splat(b, zero, lanes)
    x_step, y_step = op.word(b, record, DepthwiseRecord.X_STEP), op.word(b, record, DepthwiseRecord.Y_STEP)

    # Sums of the outputs whose windows contain the columns read so far, the next pixel's first.
    pending = [[op.variable(b, value) for value in bias] for _ in range((columns - 1) // fresh + 1)]

    def add_column(column: int, offset: ir.Value | None) -> None:
        taps = read(b, starts[column], offset, width, signed_x)
        for ahead, places in enumerate(pending):
            own = column - ahead * fresh
            if own < 0:
                continue
            for g in range(groups):
                for part, place in enumerate(places):
                    b.store(_DOT[form](b, b.load(place), taps[g][part], weights[own][g][part]), place)

    for column in range(columns - fresh):
        add_column(column, None)
    offset, place = op.variable(b, I64(0)), op.variable(b, y)
    with op.repeat(b, pixels):
        here = b.load(offset)
        for column in range(columns - fresh, columns):
            add_column(column, here)
        sums = [b.load(total) for total in pending[0]]
        for places, later in pairwise(pending):
            for target, source in zip(places, later):
                b.store(b.load(source), target)
        for target, value in zip(pending[-1], bias):
            b.store(value, target)
        values = [_requantize(b, total, scale[part], low, high, zero) for part, total in enumerate(sums)]
        op.store_first(b, _pack(b, form, values, width, signed_y), b.load(place), stored)
        op.advance(b, offset, x_step)
        op.advance(b, place, y_step)
    b.ret_void()


def _weights(
    b: ir.IRBuilder, record: ir.Value, form: str, width: int, columns: int, groups: int,
) -> list[list[list[ir.Value]]]:  # fmt: skip
    """Packed weights, loaded once: [columns][groups][parts] vectors."""
    address = b.add(record, op.word(b, record, DepthwiseRecord.WEIGHTS))
    kind = {"quads": vector(I8, width), "pairs": vector(I16, 16), "single": vector(I16, 16)}[form]
    parts = 4 if form == "quads" else width // (8 if form == "pairs" else 16)
    size = width if form == "quads" else 32
    place = iter(range(columns * groups * parts))
    return [
        [[op.load(b, op.at(b, address, size * next(place)), kind) for _ in range(parts)] for _ in range(groups)]
        for _ in range(columns)
    ]


def _load_row(b: ir.IRBuilder, start: ir.Value, offset: ir.Value | None, count: int) -> ir.Value:
    return op.load(b, start if offset is None else b.add(start, offset), vector(I8, count))


def _unpack(b: ir.IRBuilder, first: ir.Value, second: ir.Value, high: bool) -> ir.Value:
    """The low or high halves of each 16-byte lane of two vectors, interleaved (vpunpckl/vpunpckh)."""
    element = first.type.element
    count = first.type.count
    lane = 128 // element.width
    order = []
    for base in range(0, count, lane):
        for i in range(lane // 2):
            index = base + i + (lane // 2 if high else 0)
            order += [index, count + index]
    return b.shuffle_vector(first, second, ir.Constant(vector(I32, count), order))


def _read_quads(b: ir.IRBuilder, starts: Sequence[ir.Value], offset: ir.Value | None, width: int, signed: bool) -> Taps:
    """Four rows interleaved by bytes: for each group four vectors, the v-th with channels 16 L + 4 v + i of lane L."""
    groups = []
    for first in range(0, len(starts), 4):
        rows = [_load_row(b, start, offset, width) for start in starts[first : first + 4]]
        rows += [op.const(I8, width, 0)] * (4 - len(rows))
        if signed:  # s8 becomes u8 by + 128, which the bias takes back
            rows = [b.xor(row, op.const(I8, width, -128)) for row in rows]
        quads = []
        for high in (False, True):
            above, below = _unpack(b, rows[0], rows[1], high), _unpack(b, rows[2], rows[3], high)
            above, below = (b.bitcast(value, vector(I16, width // 2)) for value in (above, below))
            quads += [_unpack(b, above, below, half) for half in (False, True)]
        groups.append(quads)
    return groups


def _read_pairs(b: ir.IRBuilder, starts: Sequence[ir.Value], offset: ir.Value | None, width: int, signed: bool) -> Taps:
    """Two rows widened and interleaved: for each group two vectors per 16 channels, 8 L + 4 v + i of lane L."""
    extend = b.sext if signed else b.zext
    groups = []
    for first in range(0, len(starts), 2):
        pairs = []
        for base in range(0, width, 16):
            rows = [
                extend(_load_row(b, op.at(b, start, base), offset, 16), vector(I16, 16))
                for start in starts[first : first + 2]
            ]
            rows += [op.const(I16, 16, 0)] * (2 - len(rows))
            pairs += [_unpack(b, rows[0], rows[1], high) for high in (False, True)]
        groups.append(pairs)
    return groups


def _read_single(
    b: ir.IRBuilder, starts: Sequence[ir.Value], offset: ir.Value | None, width: int, signed: bool,
) -> Taps:  # fmt: skip
    """Each row widened to int32, 16 channels a vector."""
    extend = b.sext if signed else b.zext
    return [
        [extend(_load_row(b, op.at(b, start, base), offset, 16), vector(I32, 16)) for base in range(0, width, 16)]
        for start in starts
    ]


def _dot_single(b: ir.IRBuilder, total: ir.Value, taps: ir.Value, weights: ir.Value) -> ir.Value:
    return b.add(total, b.mul(taps, b.sext(weights, vector(I32, 16))))


_DOT = {"quads": dot.busd, "pairs": dot.maddwd, "single": _dot_single}


def _requantize(
    b: ir.IRBuilder, total: ir.Value, scale: ir.Value, low: ir.Value, high: ir.Value, zero: ir.Value,
) -> ir.Value:  # fmt: skip
    """round_half_even(clamp(total · scale)) + zero point as int32; the clamp precedes rounding, which is monotonic."""
    value = b.fmul(b.sitofp(total, scale.type), scale)
    value = clamp(b, value, low, high)
    rounded = b.bitcast(b.fadd(value, op.const(F32, scale.type.count, MAGIC)), total.type)
    return b.add(rounded, zero)


def _pack(b: ir.IRBuilder, form: str, values: Sequence[ir.Value], width: int, signed: bool) -> ir.Value:
    """int32 parts to `width` bytes in the order of channels; nothing saturates, the values are clamped."""
    if form == "single":
        return op.concatenate(b, [b.trunc(value, vector(I8, 16)) for value in values])
    if form == "quads":
        bits = 8 * width
        words = [op.intrinsic(b, _PACK_WORDS[bits], vector(I16, width // 2), values[i : i + 2]) for i in (0, 2)]
        return op.intrinsic(b, _PACK_BYTES[bits, signed], vector(I8, width), words)
    packed = []
    for i in range(0, len(values), 2):
        words = op.intrinsic(b, _PACK_WORDS[256], vector(I16, 16), values[i : i + 2])
        halves = [op.piece(b, words, first, 8) for first in (0, 8)]
        packed.append(op.intrinsic(b, _PACK_BYTES[128, signed], vector(I8, 16), halves))
    return op.concatenate(b, packed)
