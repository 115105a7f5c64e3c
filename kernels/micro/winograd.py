"""Exact integer Winograd F(m×m, 3×3), m = 4 or 2: the four transforms-and-products as vector IR.

Every int32 operation is modulo 2³²; the preparation divides the algebra's scale out (Lavin & Gray,
arXiv:1509.09308, with the weight transform's rows scaled to integers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.struct_layouts import Panel, WinogradRecord
from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.rounding import MAGIC, add_residual, clamp, panel_floats
from graphopt.kernels.micro.vectors import F32, I8, I16, I32, I64, vector

Values = Sequence[ir.Value]
Finish = Callable[[int, Values, Values, Values], None]  # vector of channels, values, places in y, places in r
_INVERSE_OF_9 = pow(9, -1, 1 << 32)  # 9 · this = 1 modulo 2^32: exact division of multiples of 9
_BITS = {4: "128", 8: "256", 16: "512"}


# ---------------------------------------------------------------------------------------------- one-dimensional algebra
def _shl(b: ir.IRBuilder, x: ir.Value, bits: int) -> ir.Value:
    return b.shl(x, ir.Constant(x.type, [bits] * x.type.count))


def _twice(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.add(x, x)


def _input_2(b: ir.IRBuilder, d: Values) -> list[ir.Value]:
    return [b.sub(d[0], d[2]), b.add(d[1], d[2]), b.sub(d[2], d[1]), b.sub(d[1], d[3])]


def _input_4(b: ir.IRBuilder, d: Values) -> list[ir.Value]:
    even, odd = b.sub(d[4], _shl(b, d[2], 2)), b.sub(d[3], _shl(b, d[1], 2))
    f, g = b.sub(d[4], d[2]), _twice(b, b.sub(d[3], d[1]))
    first = b.add(_shl(b, b.sub(d[0], d[2]), 2), f)
    last = b.sub(b.sub(d[5], d[3]), _twice(b, g))
    return [first, b.add(even, odd), b.sub(even, odd), b.add(f, g), b.sub(f, g), last]


def _output_2(b: ir.IRBuilder, m: Values) -> list[ir.Value]:
    return [b.add(m[0], b.add(m[1], m[2])), b.sub(b.sub(m[1], m[2]), m[3])]


def _output_4(b: ir.IRBuilder, m: Values) -> list[ir.Value]:
    s12, d12, s34, d34 = b.add(m[1], m[2]), b.sub(m[1], m[2]), b.add(m[3], m[4]), b.sub(m[3], m[4])
    d2 = _twice(b, d34)
    last = b.add(m[5], _twice(b, m[5]))
    third = b.add(s12, _shl(b, s34, 2))
    return [b.add(b.add(m[0], s12), s34), b.add(d12, d2), third, b.add(b.add(d12, last), _shl(b, d2, 2))]


def _weights_2(b: ir.IRBuilder, w: Values) -> list[ir.Value]:
    outer = b.add(w[0], w[2])
    return [_twice(b, w[0]), b.add(outer, w[1]), b.sub(outer, w[1]), _twice(b, w[2])]


def _weights_4(b: ir.IRBuilder, w: Values) -> list[ir.Value]:
    outer, inner = b.add(w[0], w[2]), b.add(w[0], _shl(b, w[2], 2))
    negated, middle = b.neg(_shl(b, outer, 2)), _shl(b, w[1], 2)
    six = b.add(_shl(b, w[0], 2), _twice(b, w[0]))
    twice = _twice(b, w[1])
    return [six, b.sub(negated, middle), b.add(negated, middle), b.add(inner, twice), b.sub(inner, twice),
            _shl(b, w[2], 3)]  # fmt: skip


_INPUT, _OUTPUT, _WEIGHTS = {2: _input_2, 4: _input_4}, {2: _output_2, 4: _output_4}, {2: _weights_2, 4: _weights_4}


def _steps(b: ir.IRBuilder, step: ir.Value, count: int) -> list[ir.Value]:
    """0, step, 2 step, …"""
    offsets = [I64(0)]
    for _ in range(count - 1):
        offsets.append(b.add(offsets[-1], step))
    return offsets


# ------------------------------------------------------------------------------------------------------------- kernels
def emit_input(module: ir.Module, symbol: str, level_name: str, m: int, signed: bool) -> None:
    """Define void symbol(x, row_bytes, pixel_bytes, v, position_bytes, groups): Bᵀ d B of one tile.

    x: first of (m + 2)² pixels of 8-bit channels; v: int16 [position][channel]; a group is 2 · lanes channels, the last
    of which may lie beyond the pixel: the bytes read there meet weights of zero.
    """
    group = 2 * select_level(level_name).lanes
    size, transform = m + 2, _INPUT[m]
    _, b = op.function(module, symbol, ("x", "row_bytes", "pixel_bytes", "v", "position_bytes", "groups"))
    x, row_bytes, pixel_bytes, v, position_bytes, groups = b.function.args
    rows, pixels = _steps(b, row_bytes, size), _steps(b, pixel_bytes, size)
    places = [b.add(row, pixel) for row in rows for pixel in pixels]
    targets = _steps(b, position_bytes, size * size)
    extend = b.sext if signed else b.zext
    source, target = op.variable(b, x), op.variable(b, v)
    with op.repeat(b, groups):
        here, there = b.load(source), b.load(target)
        columns = []
        for j in range(size):
            pixels = [op.load(b, b.add(here, places[i * size + j]), vector(I8, group)) for i in range(size)]
            columns.append(transform(b, [extend(pixel, vector(I16, group)) for pixel in pixels]))
        for i in range(size):
            for j, value in enumerate(transform(b, [column[i] for column in columns])):
                op.store(b, value, b.add(there, targets[i * size + j]), 2 * group)
        op.advance(b, source, I64(group))
        op.advance(b, target, I64(2 * group))
    b.ret_void()


def _dot(b: ir.IRBuilder, level: Level, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """acc + Σ of products of int16 pairs; exact modulo 2³²."""
    bits = _BITS[level.lanes]
    if level.dot == "vpdpbusd":
        kind = [acc, b.bitcast(activations, acc.type), b.bitcast(weights, acc.type)]
        return op.intrinsic(b, f"llvm.x86.avx512.vpdpwssd.{bits}", acc.type, kind)
    pairs = b.bitcast(activations, weights.type)
    if level.dot == "vpmaddubsw":
        return b.add(acc, op.intrinsic(b, "llvm.x86.avx2.pmadd.wd", acc.type, [pairs, weights]))
    wide = vector(I32, 2 * level.lanes)
    even, odd = op.halves(b, b.mul(b.sext(pairs, wide), b.sext(weights, wide)))
    return b.add(acc, b.add(even, odd))


def emit_product(
    module: ir.Module, symbol: str, level_name: str, rows: int, tail: int, vectors: int, ahead: int,
) -> None:  # fmt: skip
    """Define void symbol(v, u, m, mains, tails, record): for every position, M = V · U over all channels.

    v int16 [position][tile][channel], u int16 [position][channel / 2][vectors · lanes][2], m int32 [position][tile]
    [vectors · lanes]; mains times `rows` tiles, then tails times `tail`. The tails stand inside the loop over positions
    so that u streams once; it is prefetched `ahead` bytes ahead. record: `WinogradRecord`.
    """
    level = select_level(level_name)
    _, b = op.function(module, symbol, ("v", "u", "m", "mains", "tails", "record"))
    v, u, m, mains, tails, record = b.function.args
    position = [op.variable(b, start) for start in (v, u, m)]
    strides = [
        op.word(b, record, index)
        for index in (WinogradRecord.V_POSITION, WinogradRecord.U_POSITION, WinogradRecord.M_POSITION)
    ]
    row_bytes, depth = op.word(b, record, WinogradRecord.V_ROW), op.word(b, record, WinogradRecord.STEPS)
    with op.repeat(b, op.word(b, record, WinogradRecord.POSITIONS)):
        source, target = op.variable(b, b.load(position[0])), op.variable(b, b.load(position[2]))
        weights = b.load(position[1])
        for height, count in ((rows, mains), (tail, tails)):
            if not height:
                continue
            with op.repeat(b, count):
                _tile(b, level, height, vectors, ahead, b.load(source), row_bytes, weights, depth, b.load(target))
                op.advance(b, source, b.mul(row_bytes, I64(height)))
                op.advance(b, target, I64(height * vectors * level.lanes * 4))
        for place, stride in zip(position, strides):
            op.advance(b, place, stride)
    b.ret_void()


def _tile(
    b: ir.IRBuilder, level: Level, rows: int, vectors: int, ahead: int, source: ir.Value, row_bytes: ir.Value,
    weights: ir.Value, depth: ir.Value, target: ir.Value,
) -> None:  # fmt: skip
    lanes, width = level.lanes, 4 * level.lanes
    starts = [b.add(source, offset) for offset in _steps(b, row_bytes, rows)]
    sums = [[op.variable(b, op.const(I32, lanes, 0)) for _ in range(vectors)] for _ in range(rows)]
    stream, offset = op.variable(b, weights), op.variable(b, I64(0))
    with op.repeat(b, depth):
        here, reached = b.load(stream), b.load(offset)
        for k in range(WinogradRecord.UNROLL):
            places = [op.at(b, here, (k * vectors + n) * width) for n in range(vectors)]
            operands = [op.load(b, place, vector(I16, 2 * lanes)) for place in places]
            if ahead and (k * vectors * width) % 64 == 0:
                for line in range(0, max(64, vectors * width), 64):
                    op.prefetch(b, op.at(b, places[0], ahead + line))
            for row, start in enumerate(starts):
                pair = op.splat(b, op.load(b, op.at(b, b.add(start, reached), 4 * k), I32), lanes)
                for n, operand in enumerate(operands):
                    b.store(_dot(b, level, b.load(sums[row][n]), pair, operand), sums[row][n])
        op.advance(b, stream, I64(WinogradRecord.UNROLL * vectors * width))
        op.advance(b, offset, I64(4 * WinogradRecord.UNROLL))
    for index, place in enumerate(place for row in sums for place in row):
        op.store(b, b.load(place), op.at(b, target, index * width), width)


def emit_weights(module: ir.Module, symbol: str, level_name: str, m: int, vectors: int) -> None:
    """Define void symbol(w, u, position_bytes, pairs, row): row `row` of G w Gᵀ, positions (row, 0 …), on the fly.

    w s8 [channel / 2][9][vectors · lanes][2]; u as for the product; row: int16[3], that row of G.
    """
    level = select_level(level_name)
    group, transform = 2 * level.lanes, _WEIGHTS[m]
    kind = vector(I16, group)
    _, b = op.function(module, symbol, ("w", "u", "position_bytes", "pairs", "row", "unused"))
    w, u, position_bytes, pairs, row, _ = b.function.args
    factors = [op.splat(b, op.load(b, op.at(b, row, 2 * i), I16), group) for i in range(3)]
    targets = _steps(b, position_bytes, m + 2)
    source, target = op.variable(b, w), op.variable(b, u)
    with op.repeat(b, pairs):
        for n in range(vectors):
            here, there = op.at(b, b.load(source), n * group), op.at(b, b.load(target), 2 * n * group)
            columns = []
            for j in range(3):
                taps = [op.load(b, op.at(b, here, (3 * i + j) * vectors * group), vector(I8, group)) for i in range(3)]
                first, second, third = (b.mul(b.sext(tap, kind), f) for tap, f in zip(taps, factors))
                columns.append(b.add(b.add(first, second), third))
            for value, offset in zip(transform(b, columns), targets):
                op.store(b, value, b.add(there, offset), 2 * group)
        op.advance(b, source, I64(9 * vectors * group))
        op.advance(b, target, I64(2 * vectors * group))
    b.ret_void()


# -------------------------------------------------------------------------------------------------------------- output
def emit_output(
    module: ir.Module, symbol: str, level_name: str, m: int, vectors: int, output: str, residual: str,
) -> None:  # fmt: skip
    """Define void symbol(m, position_bytes, tiles, offsets, y, r_offsets, r, record): Aᵀ M A and the epilogue.

    m int32 [position][tile][vectors · lanes]; offsets int64 [tile][m · m], of each pixel's bytes from y (and from r);
    output: "q8" | "i32" | "f32"; residual: "" or a form of `rounding.add_residual`. record: `Panel`, whose BIAS
    and SCALE carry the power of two that Winograd leaves, 2^(2 · (m / 2 + 1) − …) = 64 for m = 4 and 4 for m = 2.
    """
    level = select_level(level_name)
    lanes, size, transform = level.lanes, m + 2, _OUTPUT[m]
    names = ("m", "position_bytes", "tiles", "offsets", "y", "r_offsets", "r", "record")
    _, b = op.function(module, symbol, names)
    sums, position_bytes, tiles, offsets, y, r_offsets, r, record = b.function.args
    positions = _steps(b, position_bytes, size * size)
    kind = vector(I32, lanes)
    item = 1 if output == "q8" else 4
    finish = {"q8": _bytes, "i32": _integers, "f32": _floats}[output](b, record, lanes, m, residual)
    source, table, r_table = op.variable(b, sums), op.variable(b, offsets), op.variable(b, r_offsets)
    with op.repeat(b, tiles):
        for n in range(vectors):
            here = op.at(b, b.load(source), 4 * lanes * n)
            bias = op.load(b, op.at(b, op.word(b, record, Panel.BIAS), 4 * lanes * n), kind)
            columns = []
            for j in range(size):
                column = [op.load(b, b.add(here, positions[i * size + j]), kind, 4 * lanes) for i in range(size)]
                columns.append(transform(b, column))
            for i in range(m):
                values = transform(b, [column[i] for column in columns])
                if m == 4:
                    values = [b.mul(value, op.const(I32, lanes, _INVERSE_OF_9)) for value in values]
                values = [b.add(value, bias) for value in values]
                reach = [8 * (i * m + j) for j in range(m)]
                places = [
                    op.at(b, b.add(y, op.load(b, op.at(b, b.load(table), o), I64, 8)), item * lanes * n) for o in reach
                ]
                others = []
                if residual:
                    others = [
                        op.at(b, b.add(r, op.load(b, op.at(b, b.load(r_table), o), I64, 8)), lanes * n) for o in reach
                    ]
                finish(n, values, places, others)
        op.advance(b, source, I64(4 * lanes * vectors))
        op.advance(b, table, I64(8 * m * m))
        op.advance(b, r_table, I64(8 * m * m))
    b.ret_void()


def _integers(b: ir.IRBuilder, record: ir.Value, lanes: int, m: int, residual: str) -> Finish:
    shift = op.const(I32, lanes, 6 if m == 4 else 2)

    def finish(n: int, values: Values, places: Values, others: Values) -> None:
        for value, place in zip(values, places):
            op.store(b, b.ashr(value, shift), place)

    return finish


def _floats(b: ir.IRBuilder, record: ir.Value, lanes: int, m: int, residual: str) -> Finish:
    kind = vector(F32, lanes)
    low, high = (op.splat(b, op.word(b, record, index, F32), lanes) for index in (Panel.LOW, Panel.HIGH))

    def finish(n: int, values: Values, places: Values, others: Values) -> None:
        scale = op.load(b, op.at(b, op.word(b, record, Panel.SCALE), 4 * lanes * n), kind)
        bias = op.load(b, op.at(b, op.word(b, record, Panel.FLOAT_BIAS), 4 * lanes * n), kind)
        for value, place in zip(values, places):
            value = b.fadd(b.fmul(b.sitofp(value, kind), scale), bias)
            op.store(b, clamp(b, value, low, high), place)

    return finish


def _bytes(b: ir.IRBuilder, record: ir.Value, lanes: int, m: int, residual: str) -> Finish:
    """The requantization of `micro.tile`, value for value."""
    kind = vector(F32, lanes)
    one = panel_floats(b, record, lanes)
    zero_point = b.trunc(op.word(b, record, Panel.ZERO), I8)
    magic = op.const(F32, lanes, MAGIC)
    together = max(1, 32 // lanes) if lanes < 16 else 1
    together = min(together, m)

    def finish(n: int, values: Values, places: Values, others: Values) -> None:
        scale = op.load(b, op.at(b, op.word(b, record, Panel.SCALE), 4 * lanes * n), kind)
        done = []
        for index, value in enumerate(values):
            value = b.fmul(b.sitofp(value, kind), scale)
            if residual:
                value = add_residual(b, value, others[index], one, residual)
            value = b.fadd(clamp(b, value, one["LOW"], one["HIGH"]), magic)
            done.append(b.bitcast(value, vector(I32, lanes)))
        for first in range(0, m, together):
            joined = b.trunc(op.concatenate(b, done[first : first + together]), vector(I8, lanes * together))
            joined = b.add(joined, op.splat(b, zero_point, lanes * together))
            for index in range(together):
                order = ir.Constant(vector(I32, lanes), [index * lanes + lane for lane in range(lanes)])
                part = b.shuffle_vector(joined, joined, order) if together > 1 else joined
                op.store(b, part, places[first + index])

    return finish
