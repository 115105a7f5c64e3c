"""The register tile of float32 products: rows × channels of sums over the whole depth, b packed in panels."""

from __future__ import annotations

from llvmlite import ir

from graphopt.kernels.core.levels import select_level
from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.vectors import F32, I64, vector


def emit(module: ir.Module, symbol: str, level_name: str, rows: int, vectors: int, stored: int) -> None:
    """Define void symbol(a, a_stride, panel, y, y_stride, depth): y[r] = Σ_k a[r, k] · panel[k], strides in bytes.

    panel: float32 [depth][vectors · lanes]; stored: channels written of those computed. Sums run in the order of k.
    """
    lanes = select_level(level_name).lanes
    _, b = op.function(module, symbol, ("a", "a_stride", "panel", "y", "y_stride", "depth"))
    a, a_stride, panel, y, y_stride, depth = b.function.args
    kind = vector(F32, lanes)
    sums = [[op.variable(b, op.const(F32, lanes, 0.0)) for _ in range(vectors)] for _ in range(rows)]
    starts = [a]
    for _ in range(rows - 1):
        starts.append(b.add(starts[-1], a_stride))
    place = op.variable(b, panel)
    with op.repeat(b, depth) as k:
        offset = b.shl(k, I64(2))
        line = b.load(place)
        weights = [op.load(b, op.at(b, line, 4 * lanes * v), kind) for v in range(vectors)]
        for row, start in enumerate(starts):
            value = op.splat(b, op.load(b, b.add(start, offset), F32), lanes)
            for v, weight in enumerate(weights):
                total = op.intrinsic(b, f"llvm.fmuladd.v{lanes}f32", kind, [value, weight, b.load(sums[row][v])])
                b.store(total, sums[row][v])
        op.advance(b, place, I64(4 * lanes * vectors))
    for totals in sums:
        op.store_first(b, op.concatenate(b, [b.load(total) for total in totals]), y, stored)
        y = b.add(y, y_stride)
    b.ret_void()
