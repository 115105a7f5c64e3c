"""The register tile: rows × channels of int32 sums over the whole depth, and the epilogue that turns them into outputs.

One function serves matrix products and convolutions, as it reads each row through a pointer per segment: a matrix
product has one segment, a k×k convolution one for each tap. It reads its panel of weights through the panel's record.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from graphopt.kernels.core.levels import select_level
from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.micro import dot
from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.lookup_table import permute
from graphopt.kernels.micro.rounding import MAGIC, add_residual, clamp, panel_floats
from graphopt.kernels.micro.vectors import F32, I8, I16, I32, I64, vector

Rows = list[list[ir.Value]]  # vectors of each row
_INDEPENDENT_SUMS = 8  # a dot instruction's latency times its throughput: fewer sums leave the unit idle


def emit(
    module: ir.Module, symbol: str, level_name: str, form: str, rows: int, vectors: int, unroll: int, signed: bool,
    output: str, residual: str, table: bool, stored: int, row_terms: bool = False,
) -> None:  # fmt: skip
    """Define void symbol(pointers, record, y, r, row_scales, row_zeros).

    pointers: int64[segments][rows], addresses of each row's bytes; for the hybrid form a second table follows, of the
    rows widened to int16. y: first output; r: first residual byte; row_scales f32[rows] and row_zeros i32[rows] serve
    float output, the latter any output with `row_terms`. form: of `dot.FORMS` | hybrid. signed: activations are s8.
    output: "q8" | "i32" | "f32", the first with s for s8 output, c for limits narrower than the type's, w for scales
    that could leave int32 (see `_store_rows_512`). residual: "" or a form of `rounding.add_residual`. table: the record
    has a table of the output's codes. stored: the number of computed channels that are written.
    """
    level = select_level(level_name)
    _, b = op.function(module, symbol, ("pointers", "record", "y", "r", "row_scales", "row_zeros"))
    pointers, record, y, r, row_scales, row_zeros = b.function.args
    lanes = level.lanes
    splits = max(1, min(unroll, _INDEPENDENT_SUMS // (rows * vectors)))
    sums = _start(b, record, row_zeros, rows, vectors, lanes, splits, row_terms or output == "f32")
    weights = op.variable(b, op.word(b, record, Panel.WEIGHTS))
    segment_pointers = op.variable(b, pointers)
    flip = op.load(b, op.word(b, record, Panel.FLIP), vector(I32, lanes)) if signed else None
    if form == "hybrid":
        _hybrid(b, record, pointers, weights, sums, rows, vectors, flip)
    else:
        with op.repeat(b, op.word(b, record, Panel.SEGMENTS)):
            starts = _starts(b, b.load(segment_pointers), rows, op.word(b, record, Panel.OFFSET))
            offset = op.variable(b, I64(0))
            with op.repeat(b, op.word(b, record, Panel.STEPS)):
                for u in range(unroll):
                    operands = [_weights(b, weights, (u * vectors + v) * 4 * lanes, lanes) for v in range(vectors)]
                    for row, start in enumerate(starts):
                        a = _activations(b, op.at(b, b.add(start, b.load(offset)), 4 * u), lanes, flip)
                        for v, operand in enumerate(operands):
                            place = sums[u % splits][row][v]
                            b.store(dot.FORMS[form](b, b.load(place), a, operand), place)
                op.advance(b, offset, I64(4 * unroll))
                op.advance(b, weights, I64(4 * lanes * vectors * unroll))
            op.advance(b, segment_pointers, I64(8 * rows))
    totals = _gather(b, sums)
    if output == "i32":
        _store_sums(b, record, y, totals, stored)
    elif output == "f32":
        _store_floats(b, record, y, totals, row_scales, lanes, stored)
    else:
        _store_bytes(b, record, y, r, totals, lanes, output, residual, table, stored)
    b.ret_void()


def _start(
    b: ir.IRBuilder, record: ir.Value, row_zeros: ir.Value, rows: int, vectors: int, lanes: int, splits: int,
    row_terms: bool,
) -> list[Rows]:  # fmt: skip
    """Sums begin at the bias, less the row's zero point times the channel's sum of weights where rows have one."""
    kind = vector(I32, lanes)
    zero = op.const(I32, lanes, 0)
    address = op.word(b, record, Panel.BIAS)
    bias = [op.load(b, op.at(b, address, 4 * lanes * v), kind) for v in range(vectors)]
    first = [list(bias) for _ in range(rows)]
    if row_terms:
        address = op.word(b, record, Panel.SUMS)
        channel_sums = [op.load(b, op.at(b, address, 4 * lanes * v), kind) for v in range(vectors)]
        for row in range(rows):
            row_zero = op.splat(b, op.load(b, op.at(b, row_zeros, 4 * row), I32), lanes)
            first[row] = [b.sub(bias[v], b.mul(row_zero, channel_sums[v])) for v in range(vectors)]
    rest = [[zero] * vectors for _ in range(rows)]
    return [[[op.variable(b, value) for value in row] for row in (rest if s else first)] for s in range(splits)]


def _gather(b: ir.IRBuilder, sums: list[Rows]) -> Rows:
    totals = [[b.load(place) for place in row] for row in sums[0]]
    for extra in sums[1:]:
        totals = [[b.add(t, b.load(p)) for t, p in zip(row, places)] for row, places in zip(totals, extra)]
    return totals


def _starts(b: ir.IRBuilder, table: ir.Value, rows: int, offset: ir.Value) -> list[ir.Value]:
    return [b.add(op.load(b, op.at(b, table, 8 * row), I64, 8), offset) for row in range(rows)]


def _weights(b: ir.IRBuilder, place: ir.Value, offset: int, lanes: int) -> ir.Value:
    return op.load(b, op.at(b, b.load(place), offset), vector(I8, 4 * lanes))


def _activations(b: ir.IRBuilder, address: ir.Value, lanes: int, flip: ir.Value | None) -> ir.Value:
    """Four bytes of a row in every lane; s8 becomes u8 by + 128, which the bias takes back.

    The mask comes from memory: with a constant mask LLVM 22 never ends its search for the better of two splats.
    """
    a = op.splat(b, op.load(b, address, I32), lanes)
    return b.xor(a, flip) if flip is not None else a


def _hybrid(
    b: ir.IRBuilder, record: ir.Value, pointers: ir.Value, weights: ir.Value, sums: list[Rows], rows: int, vectors: int,
    flip: ir.Value | None,
) -> None:  # fmt: skip
    """For each segment first the groups proved safe, by vpmaddubsw, then the other groups, widened, by vpmaddwd.

    COUNTS: int32[segments][2], safe groups in pairs and unsafe groups; DEPTHS: int32 byte offset of each group.
    """
    segments = op.word(b, record, Panel.SEGMENTS)
    offset = op.word(b, record, Panel.OFFSET)
    offset16 = b.add(offset, offset)
    narrow = op.variable(b, pointers)
    wide = op.variable(b, b.add(pointers, b.mul(segments, I64(8 * rows))))
    counts = op.variable(b, op.word(b, record, Panel.COUNTS))
    depths = op.variable(b, op.word(b, record, Panel.DEPTHS))
    sums = sums[0]
    with op.repeat(b, segments):
        starts = _starts(b, b.load(narrow), rows, offset)
        with op.repeat(b, b.sext(op.load(b, b.load(counts), I32), I64)):
            for u in range(2):
                depth = b.sext(op.load(b, op.at(b, b.load(depths), 4 * u), I32), I64)
                operands = [_weights(b, weights, (u * vectors + v) * 32, 8) for v in range(vectors)]
                for row, start in enumerate(starts):
                    a = _activations(b, b.add(start, depth), 8, flip)
                    for v, operand in enumerate(operands):
                        b.store(dot.maddubs(b, b.load(sums[row][v]), a, operand), sums[row][v])
            op.advance(b, weights, I64(64 * vectors))
            op.advance(b, depths, I64(8))
        starts = _starts(b, b.load(wide), rows, offset16)
        with op.repeat(b, b.sext(op.load(b, op.at(b, b.load(counts), 4), I32), I64)):
            depth = b.shl(b.sext(op.load(b, b.load(depths), I32), I64), I64(1))
            for half in range(2):
                operands = []
                for v in range(vectors):
                    packed = op.load(b, op.at(b, b.load(weights), 32 * v + 16 * half), vector(I8, 16))
                    operands.append(b.sext(packed, vector(I16, 16)))
                for row, start in enumerate(starts):
                    a = op.splat(b, op.load(b, op.at(b, b.add(start, depth), 4 * half), I32), 8)
                    for v, operand in enumerate(operands):
                        b.store(dot.maddwd(b, b.load(sums[row][v]), a, operand), sums[row][v])
            op.advance(b, weights, I64(32 * vectors))
            op.advance(b, depths, I64(4))
        op.advance(b, counts, I64(8))
        op.advance(b, narrow, I64(8 * rows))
        op.advance(b, wide, I64(8 * rows))


def _store_sums(b: ir.IRBuilder, record: ir.Value, y: ir.Value, totals: Rows, stored: int) -> None:
    stride = op.word(b, record, Panel.Y_STRIDE)
    for row in totals:
        op.store_first(b, op.concatenate(b, row), y, stored)
        y = b.add(y, stride)


def _store_floats(
    b: ir.IRBuilder, record: ir.Value, y: ir.Value, totals: Rows, row_scales: ir.Value, lanes: int, stored: int,
) -> None:  # fmt: skip
    """y = clamp(acc · (row scale · channel scale) + float bias), each operation rounded in float32."""
    kind = vector(F32, lanes)
    stride = op.word(b, record, Panel.Y_STRIDE)
    low, high = (op.splat(b, op.word(b, record, index, F32), lanes) for index in (Panel.LOW, Panel.HIGH))
    vectors = range(len(totals[0]))
    scales = [op.load(b, op.at(b, op.word(b, record, Panel.SCALE), 4 * lanes * v), kind) for v in vectors]
    biases = [op.load(b, op.at(b, op.word(b, record, Panel.FLOAT_BIAS), 4 * lanes * v), kind) for v in vectors]
    for index, row in enumerate(totals):
        row_scale = op.splat(b, op.load(b, op.at(b, row_scales, 4 * index), F32), lanes)
        values = []
        for v, total in enumerate(row):
            value = b.fmul(b.sitofp(total, kind), b.fmul(row_scale, scales[v]))
            values.append(clamp(b, b.fadd(value, biases[v]), low, high))
        op.store_first(b, op.concatenate(b, values), y, stored)
        y = b.add(y, stride)


def _store_bytes(
    b: ir.IRBuilder, record: ir.Value, y: ir.Value, r: ir.Value, totals: Rows, lanes: int, form: str, residual: str,
    table: bool, stored: int,
) -> None:  # fmt: skip
    """y = saturate(round_half_even(acc · scale) + zero point), and again after adding a dequantized residual.

    LOW and HIGH are the output's limits less its zero point, so the clamp precedes rounding, which is monotonic.
    """
    kind, count = vector(F32, lanes), len(totals[0])
    y_stride, r_stride = op.word(b, record, Panel.Y_STRIDE), op.word(b, record, Panel.R_STRIDE)
    one = panel_floats(b, record, lanes)
    scales = [op.load(b, op.at(b, op.word(b, record, Panel.SCALE), 4 * lanes * v), kind) for v in range(count)]
    zero_point = op.splat(b, b.trunc(op.word(b, record, Panel.ZERO), I8), lanes * count)
    values = []
    for row in totals:
        parts = []
        for v, total in enumerate(row):
            value = b.fmul(b.sitofp(total, kind), scales[v])
            parts.append(add_residual(b, value, op.at(b, r, lanes * v), one, residual) if residual else value)
        values.append(parts)
        r = b.add(r, r_stride)
    if lanes == 16:
        _store_rows_512(b, record, values, one, y, y_stride, form, table, stored)
        return
    magic = op.const(F32, lanes, MAGIC)
    for parts in values:
        rounded = [b.fadd(clamp(b, value, one["LOW"], one["HIGH"]), magic) for value in parts]
        joined = op.concatenate(b, [b.bitcast(value, vector(I32, lanes)) for value in rounded])
        op.store_first(b, b.add(b.trunc(joined, vector(I8, lanes * count)), zero_point), y, stored)
        y = b.add(y, y_stride)


def _store_rows_512(
    b: ir.IRBuilder, record: ir.Value, values: Rows, one: Mapping[str, ir.Value], y: ir.Value, y_stride: ir.Value,
    form: str, table: bool, stored: int,
) -> None:  # fmt: skip
    """`_store_bytes` for rows of one or two 512-bit vectors, four vectors at a time by saturating packs.

    Where acc · scale is known to fit int32 (no "w" in the form), saturation does most of the clamping: to words, then
    the zero point is added, then to bytes; limits narrower than the type's follow ("c" in the form). Else the upper
    limit comes first, because a float beyond int32 converts to the least integer.
    """
    zero_point = op.splat(b, b.trunc(op.word(b, record, Panel.ZERO), I16), 32)
    least, greatest = (op.splat(b, b.add(b.fptosi(b.extract_element(one[limit], I32(0)), I16),
                                      b.trunc(op.word(b, record, Panel.ZERO), I16)), 32)
                       for limit in ("LOW", "HIGH"))  # fmt: skip
    quarters = (
        [op.load(b, op.at(b, op.word(b, record, Panel.TABLE), 64 * i), vector(I8, 64)) for i in range(4)]
        if table
        else []
    )
    width = len(values[0])  # vectors of a row
    order = ir.Constant(vector(I32, 16), [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15])
    pack = f"llvm.x86.avx512.pack{'s' if 's' in form[2:] else 'u'}swb.512"
    flat = [value for parts in values for value in parts]
    for first in range(0, len(flat), 4):
        four = flat[first : first + 4]
        words = []
        for i in (0, 2 if len(four) > 2 else 0):
            whole = [_whole_512(b, value, one["HIGH"] if "w" in form else None) for value in (four * 4)[i : i + 2]]
            pair = op.intrinsic(b, "llvm.x86.avx512.packssdw.512", vector(I16, 32), whole)
            pair = op.intrinsic(b, "llvm.sadd.sat.v32i16", pair.type, [pair, zero_point])
            if "c" in form or "w" in form:
                pair = b.select(b.icmp_signed("<", pair, least), least, pair)
                pair = b.select(b.icmp_signed(">", pair, greatest), greatest, pair)
            words.append(pair)
        mixed = b.bitcast(op.intrinsic(b, pack, vector(I8, 64), words), vector(I32, 16))
        mixed = b.bitcast(b.shuffle_vector(mixed, mixed, order), vector(I8, 64))
        if table:
            mixed = permute(b, quarters, mixed)
        for place in range(0, len(four), width):
            op.store_first(b, op.piece(b, mixed, 16 * place, 16 * width), y, stored)
            y = b.add(y, y_stride)


def _whole_512(b: ir.IRBuilder, value: ir.Value, high: ir.Value | None) -> ir.Value:
    """Float to int32, half to even."""
    if high is not None:
        value = b.select(b.fcmp_ordered(">", value, high), high, value)
    arguments = [value, op.const(I32, 16, 0), I16(-1), I32(4)]
    return op.intrinsic(b, "llvm.x86.avx512.mask.cvtps2dq.512", vector(I32, 16), arguments)
