"""Preparation of exact integer Winograd convolution: 3×3, stride 1, any channels, sizes and pads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from graphopt.kernels.compiler import Kernel, MicroKernel
from graphopt.kernels.levels import Level, select_level
from graphopt.kernels.quantization import Quantization, aligned_table, table_address
from graphopt.kernels.records import Panel
from graphopt.kernels.steps import LINE, SCRATCH, SLACK, Argument, Buffer, Routine, Step, aligned_empty
from graphopt.kernels.windows import Image, Window
from graphopt.kernels.winograd_algebra import (
    F2,
    F4,
    NotExact,
    Product,
    Variant,
    check_exact,
    pack_plain,
    pack_transformed,
)
from graphopt.kernels.winograd_blocks import Blocks, choose_blocks

Array = npt.NDArray[Any]
Output = Literal["q8", "i32", "f32"]

WINOGRAD = Kernel(
    "graphopt.kernels.loops.winograd:convolve",
    {
        "x": "i64", "y": "i64", "r": "i64", "scratch": "i64", "scratch_bytes": "i64", "weights": "i64",
        "panel_bytes": "i64", "records": "i64", "record_bytes": "i64", "product": "i64*", "rows_of_g": "i64",
        "table": "i64", "look_up": "i64", "transform_input": "i64", "multiply": "i64", "transform_output": "i64",
        "transform_weights": "i64", "m": "i64", "count": "i64", "block": "i64", "splits": "i64", "panels": "i64",
        "main": "i64", "tail": "i64", "width": "i64", "height_in": "i64", "width_in": "i64", "channels": "i64",
        "height_out": "i64", "width_out": "i64", "channels_out": "i64", "item": "i64", "pad_top": "i64",
        "pad_left": "i64", "zero_point": "u8", "v_at": "i64", "m_at": "i64", "u_at": "i64", "patch_at": "i64",
        "offsets_at": "i64", "dump_at": "i64", "staging_at": "i64",
    },
)  # fmt: skip

_MICRO = "graphopt.kernels.micro.winograd:emit_"
_AHEAD = 4096  # bytes of weights prefetched before their use
_SHARES = 4  # units of work wanted at least, so that two to four workers have some


@dataclass(frozen=True, slots=True)
class Residual:
    """A tensor of y's shape added after the convolution is quantized: y = q(dq(convolution) + dq(r)).

    `inner` quantizes the convolution itself, `r` the tensor in buffer r; `y_scale` is the scale of the sum.
    """

    inner: Quantization
    r: Quantization
    y_scale: float


def prepare_winograd(
    image: Image,
    weights: Array,
    scale: Array,
    *,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    x_zero_point: int,
    x_signed: bool = False,
    weight_zero_point: Array | int = 0,
    bias: Array | None = None,
    output: Output = "q8",
    y_zero_point: int = 0,
    y_signed: bool = False,
    clamp: tuple[float, float] | None = None,
    float_bias: Array | None = None,
    residual: Residual | None = None,
    table: Array | None = None,
    variant: Variant | None = None,
    on_the_fly: bool = False,
    level: str | None = None,
) -> Routine:
    """ONNX QLinearConv (or ConvInteger) of kernel 3×3, strides and dilations 1, one group; pads top, left, bottom, right.

    x: image.shape bytes (u8, or s8 if `x_signed`); y: [N, H', W', O]; weights: u8 or s8 [O, C, 3, 3] with
    weight_zero_point one or [O]; bias: int32 [O] in units of x_scale · w_scale; scale: float32 [O].

    With sum = Σ (x − x_zero_point)(w − weight_zero_point) + bias, exact, padding being the zero point:
    output "q8": y = saturate(round_half_even(float32(sum) · scale) + y_zero_point), within `clamp` if given, then through
    `table` (256 bytes) or after adding `residual`; "f32": min(max(float32(sum) · scale + float_bias, low), high) with
    clamp = (low, high); "i32": sum.

    variant: F4 or F2, else F4 where it is exact, else F2. on_the_fly keeps int8 weights and transforms them during the
    run: a quarter (F4: an eighth) of the memory. Raises NotExact where the weights do not fit the variant.
    """
    selected = select_level(level)
    whole = weights.astype(np.int32) - np.asarray(weight_zero_point, np.int32).reshape(-1, 1, 1, 1)
    if whole.shape[1:] != (image.channels, 3, 3):
        raise ValueError(f"weights must be [O, {image.channels}, 3, 3], got {list(whole.shape)}")
    biases = np.zeros(len(whole), np.int64) if bias is None else bias.astype(np.int64)
    variant = _fitting(variant, whole, biases, x_zero_point, x_signed)
    if on_the_fly and whole.size and (whole.min() < -128 or whole.max() > 127):
        raise NotExact("weights less their zero point leave int8, so they cannot be kept plain")
    if output == "q8" and table is not None and residual is not None:
        raise ValueError("a table and a residual exclude each other")
    target = Window((3, 3), pads=pads).output(image)
    target = Image(target.batch, target.height, target.width, len(whole))
    folded = (biases - x_zero_point * whole.reshape(len(whole), -1).sum(1, dtype=np.int64)) << variant.shift
    scales = np.broadcast_to(np.asarray(scale, np.float32), len(whole)) / np.float32(1 << variant.shift)
    if output != "i32" and not (np.isfinite(scales).all() and (scales >= np.finfo(np.float32).tiny).all()):
        raise NotExact("a scale is too small to be divided by a power of two exactly, or not positive and finite")
    vectors = min(selected.vectors, -(-max(1, len(whole)) // selected.lanes))
    width = vectors * selected.lanes
    limits = _limits(output, y_zero_point, y_signed, clamp)
    records = _records(folded, scales, float_bias, width, limits, y_zero_point, residual)
    return _routine(
        selected, variant, image, target, whole, records, vectors,
        pads=pads, x_zero_point=x_zero_point, x_signed=x_signed, output=output, residual=residual, table=table,
        on_the_fly=on_the_fly,
    )  # fmt: skip


def _fitting(variant: Variant | None, weights: Array, bias: Array, zero_point: int, signed: bool) -> Variant:
    if variant is None:
        try:
            check_exact(F4, weights, bias, zero_point, signed)
            return F4
        except NotExact:
            variant = F2
    check_exact(variant, weights, bias, zero_point, signed)
    return variant


def _limits(output: Output, zero_point: int, signed: bool, clamp: tuple[float, float] | None) -> tuple[float, float]:
    if output != "q8":
        return clamp or (-np.inf, np.inf)
    low, high = (-128, 127) if signed else (0, 255)
    if clamp is not None:
        low, high = max(low, int(clamp[0])), min(high, int(clamp[1]))
    return low - zero_point, high - zero_point


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _records(
    bias: Array, scale: Array, float_bias: Array | None, width: int, limits: tuple[float, float], zero_point: int,
    residual: Residual | None,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """The panels' records and the channels' constants behind them, in one piece of memory that holds its addresses."""
    panels = -(-len(bias) // width)
    head = panels * Panel.WORDS * 8
    head += -head % LINE
    memory = aligned_empty(head + 3 * 4 * panels * width)
    columns = memory[head:].view(np.uint32).reshape(3, panels, width)
    for column, values in zip(columns, (bias.astype(np.uint64), scale, float_bias), strict=True):
        if values is None:
            continue
        flat = column.reshape(-1)
        kind = np.uint32 if values.dtype == np.uint64 else np.float32
        flat.view(kind)[: len(bias)] = values.astype(kind)
    table = memory[: panels * Panel.WORDS * 8].view(np.int64).reshape(panels, Panel.WORDS)
    for panel, row in enumerate(table):
        for word, column in zip((Panel.BIAS, Panel.SCALE, Panel.FLOAT_BIAS), columns, strict=True):
            row[word] = column[panel].ctypes.data
        row[Panel.LOW], row[Panel.HIGH] = _bits(limits[0]), _bits(limits[1])
        row[Panel.ZERO] = zero_point
        if residual is not None:
            inner, r = residual.inner, residual.r
            row[Panel.INNER_LOW], row[Panel.INNER_HIGH] = (
                _bits(inner.low - inner.zero_point), _bits(inner.high - inner.zero_point),
            )  # fmt: skip
            row[Panel.INNER_SCALE], row[Panel.Y_SCALE] = _bits(inner.scale), _bits(residual.y_scale)
            row[Panel.R_SCALE], row[Panel.R_ZERO] = _bits(r.scale), _bits(r.zero_point)
    return memory


def _odd_lines(size: int) -> int:
    """At least `size` bytes and an odd number of cache lines: positions must not fall on the same cache sets."""
    return (-(-size // LINE) | 1) * LINE


def _layout(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Offsets of the parts of a worker's scratch, each on a cache line and with slack behind it; and the whole size."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-(size + SLACK) // LINE) * LINE
    return offsets, end


def _shares(units: int, panels: int) -> int:
    """Parts into which each block's panels are split, so that a few workers find work where blocks are few."""
    return min(panels, -(-_SHARES // units)) if units < _SHARES else 1


def _product_record(
    level: Level, variant: Variant, blocks: Blocks, channels: int, depth: int, width: int, on_the_fly: bool
) -> npt.NDArray[np.int64]:
    group = 2 * level.lanes
    groups = -(-channels // group)
    u_position = 2 * width * depth
    record = np.zeros(Product.WORDS, np.int64)
    record[Product.V_ROW] = groups * 2 * group
    record[Product.STEPS] = depth // (2 * Product.UNROLL)
    record[Product.POSITIONS] = variant.size if on_the_fly else variant.positions
    record[Product.V_POSITION] = _odd_lines(blocks.rows * groups * 2 * group)
    record[Product.U_POSITION] = _odd_lines(u_position) if on_the_fly else u_position
    record[Product.M_POSITION] = _odd_lines(blocks.rows * 4 * width)
    record[Product.GROUPS] = groups
    record[Product.PAIRS] = depth // 2
    return record


def _routine(
    level: Level, variant: Variant, image: Image, target: Image, weights: Array, records: npt.NDArray[np.uint8],
    vectors: int, *, pads: tuple[int, int, int, int], x_zero_point: int, x_signed: bool, output: Output,
    residual: Residual | None, table: Array | None, on_the_fly: bool,
) -> Routine:  # fmt: skip
    m, width, item = variant.m, vectors * level.lanes, 1 if output == "q8" else 4
    panels = -(-len(weights) // width)
    depth = -(-image.channels // (2 * Product.UNROLL)) * 2 * Product.UNROLL
    tiles = target.batch * -(-target.height // m) * -(-target.width // m)
    blocks = choose_blocks(level, variant, tiles, depth, panels, vectors)
    product = _product_record(level, variant, blocks, image.channels, depth, width, on_the_fly)
    packed = _packed(variant, weights, width, depth, on_the_fly)
    pixels = blocks.block * m * m
    offsets, scratch = _layout({
        "v": variant.positions * int(product[Product.V_POSITION]),
        "m": variant.positions * int(product[Product.M_POSITION]),
        "u": variant.size * int(product[Product.U_POSITION]) if on_the_fly else 0,
        "patch": variant.positions * image.channels,
        "offsets": 3 * 8 * pixels,
        "dump": len(weights) * item,
        "staging": pixels * width * item,
    })  # fmt: skip
    kind = "" if residual is None else "s8" if residual.r.signed else "u8"
    units = -(-tiles // blocks.block)
    splits = _shares(units, panels) if units else 1
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "r": 0 if residual is None else Buffer("residual"),
        "scratch": SCRATCH, "scratch_bytes": scratch,
        "weights": packed, "panel_bytes": packed.nbytes // max(1, panels),
        "records": records, "record_bytes": 8 * Panel.WORDS, "product": product, "rows_of_g": variant.g,
        "table": 0 if table is None else aligned_table(table), "look_up": 0 if table is None else table_address(),
        "transform_input": MicroKernel(_MICRO + "input", (level.name, m, x_signed)).address(),
        "multiply": MicroKernel(
            _MICRO + "product", (level.name, blocks.main, blocks.tail, vectors, 0 if on_the_fly else _AHEAD)
        ).address(),
        "transform_output": MicroKernel(_MICRO + "output", (level.name, m, vectors, output, kind)).address(),
        "transform_weights": MicroKernel(_MICRO + "weights", (level.name, m, vectors)).address() if on_the_fly else 0,
        "m": m, "count": tiles, "block": blocks.block, "splits": splits, "panels": panels,
        "main": blocks.main, "tail": blocks.tail, "width": width, "height_in": image.height, "width_in": image.width,
        "channels": image.channels, "height_out": target.height, "width_out": target.width,
        "channels_out": len(weights), "item": item, "pad_top": pads[0], "pad_left": pads[1],
        "zero_point": x_zero_point & 255, "v_at": offsets["v"], "m_at": offsets["m"], "u_at": offsets["u"],
        "patch_at": offsets["patch"], "offsets_at": offsets["offsets"], "dump_at": offsets["dump"],
        "staging_at": offsets["staging"],
    }  # fmt: skip
    macs = target.size * image.channels * 9
    step = Step(WINOGRAD, arguments, units * splits, max(1, splits // 2), scratch, macs)
    return Routine((step,), packed_bytes=packed.nbytes)


def _packed(variant: Variant, weights: Array, width: int, depth: int, on_the_fly: bool) -> Array:
    packed: Array = (
        pack_plain(weights, width, depth) if on_the_fly else pack_transformed(variant, weights, width, depth)
    )
    placed = aligned_empty(packed.nbytes + _AHEAD)[: packed.nbytes]
    placed[:] = packed.reshape(-1).view(np.uint8)
    return placed
