"""The register tile of products with weights stored in blocks: rows × one vector of channels over the whole depth."""

from __future__ import annotations

from llvmlite import ir

from graphopt.kernels.core.levels import select_level
from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.dot import FORMS, signed
from graphopt.kernels.micro.vectors import F32, I8, I32, I64, vector

_UNROLLED = 8
"""Unrolled loads of weights: a block of 64 depths of 4 bits; more only grows the code."""


def emit(module: ir.Module, symbol: str, level_name: str, bits: int, block: int, rows: int, zeros: bool) -> None:
    """Define void symbol(x, x_scales, x_sums, weights, zeros, y, blocks).

    y[r, c] = Σ_b x_scales[r, b] · scales[b, c] · Σ_k x[r, b, k] · (w[b, k, c] − zero[b, c]), the inner sum exact in
    int32, the outer one in float32 in the order of blocks. x: s8 [rows, blocks, block]; x_scales: float32 and x_sums:
    int32 [rows, blocks], the sums negated; zero: u8 [blocks, lanes] from `zeros`, or 2^(bits − 1); y: float32
    [rows, lanes]. weights: a block's u8 [block / 4][lanes][4], of 4 bits the second four of each eight depths in the
    upper halves of the bytes of the first, and behind them its scales, float32 [lanes]; then the next block's.
    """
    level = select_level(level_name)
    lanes, width = level.lanes, 4 * level.lanes
    centred = bits == 8 and level.dot == "vpmaddubsw"  # codes less 128, whose pair sums fit int16
    dot = signed if centred else FORMS[level.dot]
    names = ("x", "x_scales", "x_sums", "weights", "zeros", "y", "blocks")
    _, b = op.function(module, symbol, names)
    x, x_scales, x_sums, weights, zero_points, y, blocks = b.function.args
    floats, integers, bytes_ = vector(F32, lanes), vector(I32, lanes), vector(I8, width)
    loads, depths = block * bits // 32, 32 // bits  # of a block; depths of a load
    unrolled = min(loads, _UNROLLED)
    stride = b.mul(blocks, I64(block))
    starts, terms = [x], [I64(0)]
    for _ in range(rows - 1):
        starts.append(b.add(starts[-1], stride))
        terms.append(b.add(terms[-1], b.shl(blocks, I64(2))))
    sums = [op.variable(b, op.const(F32, lanes, 0.0)) for _ in range(rows)]
    totals = [op.variable(b, op.const(I32, lanes, 0)) for _ in range(rows)]
    line, place = op.variable(b, weights), op.variable(b, I64(0))
    with op.repeat(b, blocks) as index:
        offset = b.shl(index, I64(2))
        for term, total in zip(terms, totals):
            start = op.load(b, b.add(x_sums, b.add(term, offset)), I32)
            if zeros:
                at = b.add(zero_points, b.mul(index, I64(lanes)))
                zero = b.zext(op.load(b, at, vector(I8, lanes)), integers)
                if centred:
                    zero = b.sub(zero, op.const(I32, lanes, 128))
                b.store(b.mul(zero, op.splat(b, start, lanes)), total)
            else:
                b.store(op.splat(b, I32(0) if centred else b.shl(start, I32(bits - 1)), lanes), total)
        with op.repeat(b, I64(loads // unrolled)):
            for step in range(unrolled):
                stored = op.load(b, op.at(b, b.load(line), width * step), bytes_)
                halves = [b.xor(stored, op.const(I8, width, -128)) if centred else stored]
                if bits == 4:
                    halves = [b.and_(stored, op.const(I8, width, 15)), b.lshr(stored, op.const(I8, width, 4))]
                for half, codes in enumerate(halves):
                    for row, total in zip(starts, totals):
                        at = op.at(b, b.add(row, b.load(place)), depths * step + 4 * half)
                        four = b.bitcast(op.splat(b, op.load(b, at, I32), lanes), bytes_)
                        b.store(dot(b, b.load(total), codes, four), total)
            op.advance(b, line, I64(width * unrolled))
            op.advance(b, place, I64(depths * unrolled))
        scale = op.load(b, b.load(line), floats)
        op.advance(b, line, I64(4 * lanes))
        for term, total, result in zip(terms, totals, sums):
            own = op.splat(b, op.load(b, b.add(x_scales, b.add(term, offset)), F32), lanes)
            value = b.fmul(b.sitofp(b.load(total), floats), b.fmul(own, scale))
            b.store(b.fadd(b.load(result), value), result)
    for row, result in enumerate(sums):
        op.store(b, b.load(result), op.at(b, y, 4 * lanes * row))
    b.ret_void()
