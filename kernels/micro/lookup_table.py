"""A 256-entry table applied to bytes: y[i] = table[x[i]], the index taken as u8 bits."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.vectors import I8, I32, I64, vector

_UNROLL = 8  # independent look-ups in flight (effect: `python -m tests.bench.glue`)


def emit(module: ir.Module, symbol: str, form: str) -> None:
    """Define void symbol(x, y, count, table); x and y may be the same memory.

    form: permute (vpermi2b: 64 look-ups in two instructions) | scalar.
    """
    _, b = op.function(module, symbol, ("x", "y", "count", "table"))
    x, y, count, table = b.function.args
    if form == "permute":
        quarters = [op.load(b, op.at(b, table, 64 * i), vector(I8, 64)) for i in range(4)]
        step = 64

        def block(offset: ir.Value) -> None:
            op.store(b, permute(b, quarters, op.load(b, b.add(x, offset), vector(I8, 64))), b.add(y, offset))
    else:
        step = _UNROLL

        def block(offset: ir.Value) -> None:
            packed = op.load(b, b.add(x, offset), I64)
            joined = I64(0)
            for i in range(_UNROLL):
                index = b.and_(b.lshr(packed, I64(8 * i)), I64(255))
                joined = b.or_(joined, b.shl(b.zext(op.load(b, b.add(table, index), I8), I64), I64(8 * i)))
            op.store(b, joined, b.add(y, offset))

    blocks = b.sdiv(count, I64(step))
    with op.repeat(b, blocks) as index:
        block(b.mul(index, I64(step)))
    done = b.mul(blocks, I64(step))
    if form == "permute":
        _finish_masked(b, quarters, b.add(x, done), b.add(y, done), b.sub(count, done))
    else:
        with op.repeat(b, b.sub(count, done)) as index:
            place = b.add(done, index)
            value = op.load(b, b.add(table, b.zext(op.load(b, b.add(x, place), I8), I64)), I8)
            op.store(b, value, b.add(y, place))
    b.ret_void()


def permute(b: ir.IRBuilder, quarters: Sequence[ir.Value], indices: ir.Value) -> ir.Value:
    """64 look-ups in a table of four vectors.

    Bits 0 to 6 choose within each half of the table, bit 7 chooses the half.
    """
    kind = vector(I8, 64)
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    low, high = (op.intrinsic(b, name, kind, [quarters[i], indices, quarters[i + 1]]) for i in (0, 2))
    return b.select(b.icmp_signed("<", indices, op.const(I8, 64, 0)), high, low)


def _finish_masked(b: ir.IRBuilder, quarters: Sequence[ir.Value], x: ir.Value, y: ir.Value, count: ir.Value) -> None:
    """The last count < 64 bytes: read whole (buffers have slack), written under a mask."""
    kind = vector(I8, 64)
    mapped = permute(b, quarters, op.load(b, x, kind))
    mask = b.sub(b.shl(I64(1), count), I64(1))
    mask = b.bitcast(mask, vector(ir.IntType(1), 64))
    pointer = b.inttoptr(y, kind.as_pointer())
    name = "llvm.masked.store.v64i8.p0"
    signature = ir.FunctionType(ir.VoidType(), [kind, pointer.type, I32, mask.type])
    declared = b.module.globals.get(name) or ir.Function(b.module, signature, name)
    b.call(declared, [mapped, pointer, I32(1), mask])
