"""The inner loops of attention: scores of a few heads with their shared keys, and weighted sums of values."""

from __future__ import annotations

from llvmlite import ir

from graphopt.kernels.core.levels import select_level
from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.vectors import F32, I64, vector


def emit_scores(
    module: ir.Module, symbol: str, level_name: str, heads: int, size: int, chunk: int, coded: int
) -> None:  # fmt: skip
    """Define void symbol(q, keys, scores, count): scores[h, t] = Σ_d q[h, d] · keys[t, d], for t < count ≤ chunk.

    q: float32 [heads, size], keys: [count, size], or rows of codes where `coded`, scores: [heads, chunk]. `size` is a
    multiple of the level's lanes; lanes are summed first along d, then with each other.
    """
    lanes = select_level(level_name).lanes
    _, b = op.function(module, symbol, ("q", "keys", "scores", "count"))
    q, keys, scores, count = b.function.args
    kind = vector(F32, lanes)
    pieces = range(size // lanes)
    queries = [[op.load(b, op.at(b, q, 4 * (h * size + lanes * i)), kind) for i in pieces] for h in range(heads)]
    reduce = b.module.declare_intrinsic(
        f"llvm.vector.reduce.fadd.v{lanes}f32", (), ir.FunctionType(F32, [F32, kind])
    )  # fmt: skip
    with op.repeat(b, count) as t:
        parts = _row(b, keys, t, size, lanes, coded)
        for h in range(heads):
            total = b.fmul(queries[h][0], parts[0])
            for i in pieces[1:]:
                total = op.intrinsic(b, f"llvm.fmuladd.v{lanes}f32", kind, [queries[h][i], parts[i], total])
            score = b.call(reduce, [ir.Constant(F32, -0.0), total], fastmath=("reassoc",))
            op.store(b, score, b.add(op.at(b, scores, 4 * h * chunk), b.shl(t, I64(2))))
    b.ret_void()


def emit_values(
    module: ir.Module, symbol: str, level_name: str, heads: int, size: int, chunk: int, coded: int
) -> None:  # fmt: skip
    """Define void symbol(weights, values, sums, count): sums[h, d] += Σ_t weights[h, t] · values[t, d], in order of t.

    weights: float32 [heads, chunk], values: [count, size], or rows of codes where `coded`, sums: [heads, size].
    """
    lanes = select_level(level_name).lanes
    _, b = op.function(module, symbol, ("weights", "values", "sums", "count"))
    weights, values, sums, count = b.function.args
    kind = vector(F32, lanes)
    pieces = range(size // lanes)
    places = [[op.at(b, sums, 4 * (h * size + lanes * i)) for i in pieces] for h in range(heads)]
    totals = [[op.variable(b, op.load(b, place, kind)) for place in row] for row in places]
    with op.repeat(b, count) as t:
        parts, offset = _row(b, values, t, size, lanes, coded), b.shl(t, I64(2))
        for h in range(heads):
            weight = op.splat(b, op.load(b, b.add(op.at(b, weights, 4 * h * chunk), offset), F32), lanes)
            for part, total in zip(parts, totals[h]):
                value = op.intrinsic(b, f"llvm.fmuladd.v{lanes}f32", kind, [weight, part, b.load(total)])
                b.store(value, total)
    for row, kept in zip(places, totals):
        for place, total in zip(row, kept):
            op.store(b, b.load(total), place)
    b.ret_void()


def _row(b: ir.IRBuilder, rows: ir.Value, index: ir.Value, size: int, lanes: int, coded: int) -> list[ir.Value]:
    """Row `index` as float32 vectors, from float32, or from int8 codes [size] followed by their float32 scale."""
    kind = vector(F32, lanes)
    line = b.add(rows, b.mul(index, I64(size + 4 if coded else 4 * size)))
    if not coded:
        return [op.load(b, op.at(b, line, 4 * first), kind) for first in range(0, size, lanes)]
    scale = op.splat(b, op.load(b, op.at(b, line, size), F32), lanes)
    codes = [op.load(b, op.at(b, line, first), vector(op.I8, lanes)) for first in range(0, size, lanes)]
    return [b.fmul(b.sitofp(part, kind), scale) for part in codes]
