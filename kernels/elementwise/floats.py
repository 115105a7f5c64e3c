"""Preparation of float32 arithmetic: of two tensors (the second optionally a constant), and Clip and Gelu of one."""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.core.struct_layouts import Kind
from graphopt.kernels.tensors.broadcasting import TILE, Broadcast, broadcast

FloatOp = Literal["add", "subtract", "multiply", "divide", "subtract_from", "divide_into", "prelu"]
SWAPPED: dict[str, FloatOp] = {
    "add": "add", "multiply": "multiply", "subtract": "subtract_from", "divide": "divide_into",
    "subtract_from": "subtract", "divide_into": "divide",
}  # fmt: skip

CLAMP = Kernel(
    "graphopt.kernels.loops.elementwise.floats:clamp",
    {"x": "f32*", "y": "f32*", "count": "i64", "slope": "f32", "shift": "f32", "low": "f32", "high": "f32"},
)
GELU = Kernel(
    "graphopt.kernels.loops.elementwise.floats:gelu",
    {"x": "f32*", "y": "f32*", "count": "i64", "inner": "f32", "plain": "f32", "bent": "f32"},
)


def _kernel(op: FloatOp) -> Kernel:
    fields: dict[str, Kind] = {"a": "f32*", "b": "f32*", "y": "f32*", "count": "i64", "rows": Broadcast}
    return Kernel(f"graphopt.kernels.loops.elementwise.floats:{op}", fields)


def prepare_float_binary(
    op: FloatOp, a_shape: tuple[int, ...], b_shape: tuple[int, ...], constant: Array | None = None
) -> Routine:
    """y = a ∘ b in float32, of a's shape; b broadcasts as in `broadcasting.broadcast`, and may be a constant.

    subtract_from is b − a, divide_into b / a, and prelu a, or a · b where a is not above 0.

    Raises ValueError where b does not broadcast.
    """
    rows, count = broadcast(a_shape, b_shape), prod(a_shape)
    other: Argument = Buffer("b") if constant is None else np.ascontiguousarray(constant, np.float32)
    arguments: dict[str, Argument] = {"a": Buffer("a"), "b": other, "y": Buffer("y"), "count": count, "rows": rows}
    return Routine((Step(_kernel(op), arguments, rows.tiles(count), grain=rows.grain),))


def prepare_clamp(count: int, slope: float, shift: float, low: float, high: float) -> Routine:
    """y = min(max(slope · x + shift, low), high) of float32[count]: Relu, Clip, HardSigmoid."""
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "count": count, "slope": slope, "shift": shift, "low": low, "high": high,
    }  # fmt: skip
    return Routine((Step(CLAMP, arguments, tiles=-(-count // TILE), grain=4),))


def prepare_gelu(count: int, inner: float, plain: float, bent: float) -> Routine:
    """y = x · (plain + bent · erf(inner · x)) of float32[count], erf to 3e-7; Gelu is (√½, ½, ½)."""
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "count": count, "inner": inner, "plain": plain, "bent": bent,
    }  # fmt: skip
    return Routine((Step(GELU, arguments, tiles=-(-count // TILE)),))
