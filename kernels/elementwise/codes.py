"""Preparation of elementwise steps on codes: quantize, dequantize, tables, and Add, Sub, Mul of quantized tensors.

The output may be an input: each element is read before it is written. Only tables keep their speed in place.
"""

from __future__ import annotations

from functools import cache
from math import prod

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.core.struct_layouts import Kind
from graphopt.kernels.elementwise.proved_factors import BinaryOp, proved_factors
from graphopt.kernels.layout.moves import map_rows_step
from graphopt.kernels.tensors.broadcasting import TILE, Broadcast, broadcast
from graphopt.kernels.tensors.quantization import CodeRecord, Quantization

_LOOPS = "graphopt.kernels.loops.elementwise.codes:"


@cache
def _quantize_kernel(y: str) -> Kernel:
    return Kernel(_LOOPS + "quantize", {"x": "f32*", "y": y, "count": "i64", "qy": CodeRecord})


@cache
def _dequantize_kernel(x: str) -> Kernel:
    return Kernel(_LOOPS + "dequantize", {"x": x, "y": "f32*", "count": "i64", "qx": CodeRecord})


@cache
def _binary_kernel(name: str, a: str, b: str, y: str) -> Kernel:
    records: dict[str, Kind] = {"rows": Broadcast, "qa": CodeRecord, "qb": CodeRecord, "qy": CodeRecord}
    return Kernel(_LOOPS + name, {"a": a, "b": b, "y": y, "count": "i64", **records})


def prepare_quantize(count: int, y: Quantization) -> Routine:
    """ONNX QuantizeLinear, per tensor: x float32[count] → y u8 or s8[count].

    y = saturate(round_half_even(x / scale) + zero point), divided in float32; NaN gives the zero point.
    """
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y"), "count": count, "qy": y.record}
    return Routine((Step(_quantize_kernel(y.kind), arguments, -(-count // TILE), grain=4),))


def prepare_dequantize(count: int, x: Quantization) -> Routine:
    """ONNX DequantizeLinear, per tensor: x u8 or s8[count] → y float32[count] = float32(x − zero point) · scale."""
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y"), "count": count, "qx": x.record}
    return Routine((Step(_dequantize_kernel(x.kind), arguments, -(-count // TILE), grain=4),))


def prepare_table(count: int, table: Array) -> Routine:
    """Any function of one 8-bit code: y[i] = table[x[i]], count bytes; table: 256 bytes by the bits of x as u8.

    Such functions are requantization, activations (Sigmoid, …) and Add or Mul with a constant scalar.
    """
    full, rest = divmod(count, TILE)
    steps = []
    if full:
        steps.append(map_rows_step(full, TILE, table, Buffer("x"), Buffer("y")))
    if rest:
        x, y = Buffer("x", full * TILE), Buffer("y", full * TILE)
        steps.append(map_rows_step(1, rest, table, x, y))
    return Routine(tuple(steps))


def prepare_binary(
    op: BinaryOp, a_shape: tuple[int, ...], b_shape: tuple[int, ...], a: Quantization, b: Quantization, y: Quantization
) -> Routine:
    """Add, Sub or Mul of quantized tensors a and b into y of a's shape (QLinearAdd and QLinearMul as QDQ defines them).

    y = quantize(dequantize(a) ∘ dequantize(b)), each operation rounded in float32. b broadcasts to a if its shape, with
    leading ones added, is equal, a scalar, or equal but for ones in one contiguous run of leading, middle or last axes
    (such as [N, 1, 1, C], [C], [N, H, W, 1]). Raises ValueError for other shapes; for a smaller a, swap the operands of
    Add and Mul.
    """
    rows, count = broadcast(a_shape, b_shape), prod(a_shape)
    factors = proved_factors(op, a, b, y)
    name, (p, q) = (op, (a.scale, b.scale)) if factors is None else (f"{op}_scaled", factors)
    arguments: dict[str, Argument] = {
        "a": Buffer("a"), "b": Buffer("b"), "y": Buffer("y"), "count": count, "rows": rows,
        "qa": a.record._replace(scale=p), "qb": b.record._replace(scale=q), "qy": y.record,
    }  # fmt: skip
    kernel = _binary_kernel(name, a.kind, b.kind, y.kind)
    return Routine((Step(kernel, arguments, rows.tiles(count), grain=rows.grain),))
