"""Float arithmetic of all epilogues: clamp, round half to even, add a dequantized residual."""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.micro.vectors import F32, I8, I32, const, intrinsic, load, splat, vector, word

MAGIC = 12582912.0  # 1.5 · 2^23: adding it rounds |v| < 2^22 half to even into the low mantissa bits
MAGIC_BITS = 0x4B400000  # of MAGIC as float32


def panel_floats(b: ir.IRBuilder, record: ir.Value, lanes: int) -> dict[str, ir.Value]:
    """The panel's constants for all channels, one vector each, by name."""
    return {name: splat(b, word(b, record, index, F32), lanes) for name, index in Panel.FLOATS.items()}


def clamp(b: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """min(max(value, low), high); NaN stays NaN, for which both comparisons are false."""
    value = b.select(b.fcmp_ordered("<", value, low), low, value)
    return b.select(b.fcmp_ordered(">", value, high), high, value)


def nearest(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """value rounded half to even, |value| < 2^22: by an instruction for wide vectors; the narrowest may have none."""
    lanes = value.type.count
    if lanes > 4:
        return intrinsic(b, f"llvm.roundeven.v{lanes}f32", value.type, [value])
    magic = const(F32, lanes, MAGIC)
    return b.fsub(b.fadd(value, magic), magic)


def add_residual(
    b: ir.IRBuilder, value: ir.Value, address: ir.Value, one: Mapping[str, ir.Value], form: str,
) -> ir.Value:  # fmt: skip
    """value, requantized to the inner scale, plus the residual's bytes at `address`, in units of y's scale.

    form: "u8" or "s8"; with "/" behind it the sum is divided by y's scale, else INNER_SCALE and R_SCALE are factors
    proved to give the same codes.
    """
    kind, lanes = value.type, value.type.count
    value = nearest(b, clamp(b, value, one["INNER_LOW"], one["INNER_HIGH"]))
    extend = b.sext if form.startswith("s8") else b.zext
    other = b.sitofp(extend(load(b, address, vector(I8, lanes)), vector(I32, lanes)), kind)
    other = b.fmul(b.fsub(other, one["R_ZERO"]), one["R_SCALE"])
    total = b.fadd(b.fmul(value, one["INNER_SCALE"]), other)
    return b.fdiv(total, one["Y_SCALE"]) if form.endswith("/") else total
