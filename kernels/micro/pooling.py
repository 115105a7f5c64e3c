"""One pooled pixel: the maximum or the requantized mean, channel by channel, of the pixels at given addresses."""

from __future__ import annotations

from llvmlite import ir

from graphopt.kernels.micro import vectors as op
from graphopt.kernels.micro.rounding import MAGIC, MAGIC_BITS, clamp
from graphopt.kernels.micro.vectors import F32, I8, I32, I64, vector


def emit(module: ir.Module, symbol: str, kind: str, width: int, signed_x: bool, signed_y: bool) -> None:
    """Define void symbol(pointers, taps, y, channels, offset, scale, limits, zero).

    pointers: int64[taps]. kind "max": y = max of the taps. kind "mean": y = round_half_even(clamp(float32(Σ taps +
    offset) · scale)) + zero, where scale holds float32 bits and limits is the address of two float32, the clamp's.
    """
    names = ("pointers", "taps", "y", "channels", "offset", "scale", "limits", "zero")
    _, b = op.function(module, symbol, names)
    _, _, _, channels, *_ = b.function.args
    compute = _maximum if kind == "max" else _mean
    done = op.variable(b, I64(0))
    for count in (width, 16, 8, 4, 1):
        blocks = b.sdiv(b.sub(channels, b.load(done)), I64(count))
        with op.repeat(b, blocks):
            compute(b, b.load(done), count, signed_x, signed_y)
            b.store(b.add(b.load(done), I64(count)), done)
    b.ret_void()


def _maximum(b: ir.IRBuilder, first: ir.Value, count: int, signed: bool, _: bool) -> None:
    pointers, taps, y, *_ = b.function.args
    kind = vector(I8, count)
    best = op.variable(b, op.load(b, b.add(op.load(b, pointers, I64, 8), first), kind))
    compare = b.icmp_signed if signed else b.icmp_unsigned
    with op.repeat(b, b.sub(taps, I64(1))) as index:
        pointer = op.load(b, b.add(pointers, b.shl(b.add(index, I64(1)), I64(3))), I64, 8)
        value, held = op.load(b, b.add(pointer, first), kind), b.load(best)
        b.store(b.select(compare(">", value, held), value, held), best)
    op.store(b, b.load(best), b.add(y, first))


def _mean(b: ir.IRBuilder, first: ir.Value, count: int, signed: bool, _: bool) -> None:
    pointers, taps, y, _, offset, scale, limits, zero = b.function.args
    extend = b.sext if signed else b.zext
    total = op.variable(b, op.splat(b, b.trunc(offset, I32), count))
    with op.repeat(b, taps) as index:
        pointer = op.load(b, b.add(pointers, b.shl(index, I64(3))), I64, 8)
        value = extend(op.load(b, b.add(pointer, first), vector(I8, count)), vector(I32, count))
        b.store(b.add(b.load(total), value), total)
    factor = op.splat(b, b.bitcast(b.trunc(scale, I32), F32), count)
    low, high = (op.splat(b, op.load(b, op.at(b, limits, 4 * i), F32), count) for i in range(2))
    value = b.fmul(b.sitofp(b.load(total), vector(F32, count)), factor)
    value = clamp(b, value, low, high)
    rounded = b.bitcast(b.fadd(value, op.const(F32, count, MAGIC)), vector(I32, count))
    shift = op.splat(b, b.sub(b.trunc(zero, I32), I32(MAGIC_BITS)), count)
    op.store(b, b.trunc(b.add(rounded, shift), vector(I8, count)), b.add(y, first))
