"""Preparation of exact integer Winograd convolution: 3×3, stride 1, any channels, sizes and pads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.linked_table import LinkedTable
from graphopt.kernels.core.memory import (
    LINE,
    SLACK,
    Array,
    Words,
    aligned_empty,
    constant_memory,
    float_bits,
    whole_lines,
)  # fmt: skip
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.core.struct_layouts import Panel, WinogradRecord
from graphopt.kernels.products.epilogue import Accumulate, Epilogue, FloatOutput, Requantize
from graphopt.kernels.products.matmul_conv import Activations
from graphopt.kernels.products.requantization import residual_form, write_requantization
from graphopt.kernels.tensors.lookup import aligned_table, table_look_up
from graphopt.kernels.tensors.windows import Image, Window
from graphopt.kernels.winograd.algebra import F2, F4, Variant, check_exact, pack_transformed
from graphopt.kernels.winograd.blocks import Blocks, choose_blocks
from graphopt.kernels.winograd.weights import WeightSums, pack_plain, weight_sums

from ...errors import Declined


class WinogradShape(NamedTuple):
    """Sizes of x and y, pads, the zero point's byte, bytes of an output."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    top: int
    left: int
    zero_point: int
    item: int


class WinogradTiles(NamedTuple):
    """m of F(m×m, 3×3), tiles and their blocks, parts of a block's panels, rows of the product, panels of weights."""

    m: int
    tiles: int
    block: int
    splits: int
    main: int  # rows of the product's register tile
    tail: int  # rows of the last one where `main` does not divide the block, else 0
    panels: int
    width: int  # channels of a panel
    panel_bytes: int


class ScratchLayout(NamedTuple):
    """Offsets in a worker's scratch, each on a cache line with slack behind it."""

    v: int  # transformed input
    m: int  # products
    u: int  # weights transformed on the fly
    patch: int  # a tile that leaves the image, with its padding
    offsets: int  # three tables of pixels' offsets: in y, in the residual, in the staging area
    dump: int  # receives the pixels of a tile outside y
    staging: int  # receives the pixels of a panel with fewer channels than its width
    size: int


_ADDRESSES = ("x", "y", "r", "weights", "records")
_FUNCTIONS = ("look_up", "transform_input", "multiply", "transform_output", "transform_weights")
WINOGRAD = Kernel(
    "graphopt.kernels.loops.winograd:convolve",
    {
        **dict.fromkeys(_ADDRESSES, "i64"), "product": "i64*", "rows_of_g": "i64", "table": "i64",
        **dict.fromkeys(_FUNCTIONS, "i64"), "shape": WinogradShape, "cut": WinogradTiles, "at": ScratchLayout,
        "scratch": "i64",
    },
)  # fmt: skip

TRANSFORM = Kernel(
    "graphopt.kernels.loops.winograd:transform_panels",
    {
        "w": "i64", "u": "i64", "w_panel": "i64", "u_panel": "i64", "position_bytes": "i64", "pairs": "i64",
        "size": "i64", "rows_of_g": "i64", "transform": "i64",
    },
)  # fmt: skip

_MICRO = "graphopt.kernels.micro.winograd:emit_"
_AHEAD = 4096  # bytes ahead of their use at which weights are prefetched (`python -m tests.bench.winograd`)
_SHARES = 4  # units of work at least, so that two to four workers each have one


def prepare_winograd(
    x_shape: Sequence[int], weights: Array, activations: Activations, output: Epilogue, *, bias: Array | None = None,
    weight_zero_point: int | Array = 0, pads: Sequence[int] = (1, 1, 1, 1), variant: Variant | None = None,
    on_the_fly: bool = False, level: Level | None = None,
) -> Routine:  # fmt: skip
    """`products.matmul_conv.prepare_conv` for kernel 3×3, strides and dilations 1, one group: equal buffers and bits.

    x_shape is (N, H, W, C), weights are [O, C, 3, 3], s8 or u8 with a zero point per tensor or per output channel; pads
    are (top, left, bottom, right), filled with the activations' zero point; y is dense [N, H', W', O].

    variant: F4 or F2, else F4 where it is exact, else F2. on_the_fly keeps int8 weights and transforms them during the
    run: an eighth of the memory for F4, 9 / 32 for F2. Raises Declined where weights, bias or scales do not fit the
    variant (use prepare_conv then), ValueError for shapes that do not fit together or dynamic rows.
    """
    level = level or select_level()
    batch, height, width_in, channels = (int(size) for size in x_shape)
    image = Image(batch, height, width_in, channels)
    centred = _centred(weights, np.reshape(weight_zero_point, (-1, 1, 1, 1)))
    if centred.shape[1:] != (channels, 3, 3):
        raise ValueError(f"weights must be [O, {channels}, 3, 3], got {list(centred.shape)}")
    if isinstance(output, FloatOutput) and output.dynamic:
        raise ValueError("Winograd mixes rows, so they cannot have scales of their own")
    signed, zero_point = activations.flip != 0, activations.zero_point
    biases = np.broadcast_to(np.asarray(0 if bias is None else bias, np.int64), (len(centred),))
    sums = weight_sums(centred)
    variant = _fitting(variant, sums, biases, zero_point, signed)
    if on_the_fly and centred.dtype != np.int8:
        raise Declined("weights less their zero point leave int8, so they cannot be kept plain")
    target = Window((3, 3), pads=(pads[0], pads[1], pads[2], pads[3])).output(image)
    target = Image(target.batch, target.height, target.width, len(centred))
    if target.size == 0:
        return Routine(())
    folded = (biases - zero_point * (sums.positive + sums.negative)) << variant.shift
    vectors = min(level.vectors, -(-len(centred) // level.lanes))
    records = _records(folded, variant, output, vectors * level.lanes)
    return _routine(
        level, variant, image, target, centred, records, vectors, activations, output, (pads[0], pads[1]), on_the_fly
    )


def _centred(weights: Array, zero_point: Array) -> Array:
    """The weights less their zero point: s8 where they fit, else int32."""
    if weights.dtype == np.int8 and not zero_point.any():
        return weights
    wide = weights.astype(np.int32) - zero_point.astype(np.int32)
    return wide.astype(np.int8) if wide.min(initial=0) >= -128 and wide.max(initial=0) <= 127 else wide


def _fitting(variant: Variant | None, weights: WeightSums, bias: Array, zero_point: int, signed: bool) -> Variant:
    if variant is None:
        try:
            check_exact(F4, weights, bias, zero_point, signed)
            return F4
        except Declined:
            variant = F2
    check_exact(variant, weights, bias, zero_point, signed)
    return variant


def _scales(output: Epilogue, variant: Variant, count: int) -> npt.NDArray[np.float32] | None:
    """The channels' scales over the power of two that Winograd leaves; exact unless the quotient is subnormal."""
    if isinstance(output, Accumulate):
        return None
    whole = np.broadcast_to(np.asarray(output.scale, np.float32), (count,))
    scales = (whole / np.float32(1 << variant.shift)).astype(np.float32)
    if not np.array_equal(scales * np.float32(1 << variant.shift), whole):
        raise Declined(f"F({variant.m}×{variant.m}, 3×3): a scale is too small or not finite")
    return scales


def _records(folded: Array, variant: Variant, output: Epilogue, width: int) -> LinkedTable:
    """The panels' records, linked to the constants of their channels."""
    count = len(folded)
    panels = -(-count // width)
    columns = aligned_empty(3 * 4 * panels * width).reshape(3, panels * width * 4)
    columns[0].view(np.uint32)[:count] = folded.astype(np.uint64).astype(np.uint32)  # modulo 2^32
    scales = _scales(output, variant, count)
    if scales is not None:
        columns[1].view(np.float32)[:count] = scales
    if isinstance(output, FloatOutput) and output.bias is not None:
        columns[2].view(np.float32)[:count] = output.bias
    table = LinkedTable(np.zeros((panels, Panel.WORDS), np.int64))
    for place, word in enumerate((Panel.BIAS, Panel.SCALE, Panel.FLOAT_BIAS)):
        table.link_column(word, columns, columns.strides[0] * place + 4 * width * np.arange(panels))
    for row in table.words:
        if isinstance(output, FloatOutput):
            row[Panel.LOW], row[Panel.HIGH] = float_bits(output.low), float_bits(output.high)
        if isinstance(output, Requantize):
            write_requantization(row, output)
    return table


def _odd_lines(size: int) -> int:
    """`size` bytes rounded up to an odd number of cache lines, so that positions use different cache sets."""
    return (-(-size // LINE) | 1) * LINE


def _scratch(
    variant: Variant, product: Words, block: int, channels: int, width: int, out_bytes: int, on_the_fly: bool
) -> ScratchLayout:
    """The scratch of a worker; `out_bytes` of a pixel of y, `width` bytes of one of a panel's."""
    pixels = block * variant.m**2
    sizes = (
        variant.positions * int(product[WinogradRecord.V_POSITION]),
        variant.positions * int(product[WinogradRecord.M_POSITION]),
        variant.size * int(product[WinogradRecord.U_POSITION]) if on_the_fly else 0,
        variant.positions * channels,
        3 * 8 * pixels,
        out_bytes,
        pixels * width,
    )
    return ScratchLayout(*accumulate((whole_lines(size + SLACK) for size in sizes), initial=0))


def _shares(units: int, panels: int) -> int:
    """Parts into which each block's panels are split, so that few blocks still occupy a few workers."""
    return min(panels, -(-_SHARES // units)) if units < _SHARES else 1


def _product_record(
    level: Level, variant: Variant, blocks: Blocks, channels: int, depth: int, width: int, on_the_fly: bool
) -> Words:
    group = 2 * level.lanes
    groups = -(-channels // group)
    u_position = 2 * width * depth
    record = np.zeros(WinogradRecord.WORDS, np.int64)
    record[WinogradRecord.V_ROW] = groups * 2 * group
    record[WinogradRecord.STEPS] = depth // (2 * WinogradRecord.UNROLL)
    record[WinogradRecord.POSITIONS] = variant.size if on_the_fly else variant.positions
    record[WinogradRecord.V_POSITION] = _odd_lines(blocks.rows * groups * 2 * group)
    record[WinogradRecord.U_POSITION] = _odd_lines(u_position) if on_the_fly else u_position
    record[WinogradRecord.M_POSITION] = _odd_lines(blocks.rows * 4 * width)
    record[WinogradRecord.GROUPS] = groups
    record[WinogradRecord.PAIRS] = depth // 2
    return record


def _routine(
    level: Level, variant: Variant, image: Image, target: Image, weights: Array, records: LinkedTable, vectors: int,
    activations: Activations, output: Epilogue, pads: tuple[int, int], on_the_fly: bool,
) -> Routine:  # fmt: skip
    requantize = output if isinstance(output, Requantize) else None
    residual = requantize.residual if requantize else None
    table = requantize.table if requantize else None
    form = {Requantize: "q8", FloatOutput: "f32", Accumulate: "i32"}[type(output)]
    m, width, item = variant.m, vectors * level.lanes, 1 if requantize else 4
    panels = -(-len(weights) // width)
    depth = -(-image.channels // (2 * WinogradRecord.UNROLL)) * 2 * WinogradRecord.UNROLL
    tiles = target.batch * -(-target.height // m) * -(-target.width // m)
    blocks = choose_blocks(level, variant, tiles, depth, vectors, on_the_fly)
    product = _product_record(level, variant, blocks, image.channels, depth, width, on_the_fly)
    packed = _packed(level, variant, weights, vectors, depth, on_the_fly)
    layout = _scratch(variant, product, blocks.block, image.channels, width * item, len(weights) * item, on_the_fly)
    kind = "" if requantize is None else residual_form(requantize)
    units = -(-tiles // blocks.block)
    splits = _shares(units, panels) if units else 1
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "r": 0 if residual is None else Buffer("residual"),
        "weights": packed, "records": records, "product": product, "rows_of_g": variant.g,
        "table": 0 if table is None else aligned_table(table), "look_up": 0 if table is None else table_look_up(),
        "transform_input": MicroKernel(_MICRO + "input", (level.name, m, activations.flip != 0)),
        "multiply": MicroKernel(
            _MICRO + "product", (level.name, blocks.main, blocks.tail, vectors, 0 if on_the_fly else _AHEAD)
        ),
        "transform_output": MicroKernel(_MICRO + "output", (level.name, m, vectors, form, kind)),
        "transform_weights": _transform(level, variant, vectors) if on_the_fly else 0,
        "shape": WinogradShape(
            image.height, image.width, image.channels, target.height, target.width, len(weights), *pads,
            activations.zero_point & 255, item,
        ),
        "cut": WinogradTiles(
            m, tiles, blocks.block, splits, blocks.main, blocks.tail, panels, width, packed.nbytes // max(1, panels)
        ),
        "at": layout, "scratch": SCRATCH,
    }  # fmt: skip
    macs = target.size * image.channels * 9
    step = Step(WINOGRAD, arguments, units * splits, max(1, splits // 2), layout.size, macs)
    return Routine((step,), packed_bytes=packed.nbytes)


def _packed(level: Level, variant: Variant, weights: Array, vectors: int, depth: int, on_the_fly: bool) -> Array:
    """Weights in the loop's format: plain, or transformed by the kernel that also serves `on_the_fly`."""
    width = vectors * level.lanes
    panels = -(-len(weights) // width)
    if weights.dtype != np.int8:
        return _with_slack(pack_transformed(variant, weights, width, depth))
    plain = pack_plain(weights, width, depth)
    if on_the_fly:
        return _with_slack(plain)
    size = panels * variant.positions * depth * width * 2
    placed = constant_memory(size + _AHEAD)[:size]
    arguments: dict[str, Argument] = {
        "w": int(plain.ctypes.data), "u": int(placed.ctypes.data), "w_panel": plain.nbytes // panels,
        "u_panel": size // panels, "position_bytes": 2 * width * depth, "pairs": depth // 2, "size": variant.size,
        "rows_of_g": variant.g, "transform": _transform(level, variant, vectors),
    }  # fmt: skip
    Step(TRANSFORM, arguments, tiles=panels).run()
    return placed


def _with_slack(packed: Array) -> Array:
    """A copy on a cache line, with the slack that prefetching reads."""
    placed = aligned_empty(packed.nbytes + _AHEAD)[: packed.nbytes]
    placed[:] = packed.reshape(-1).view(np.uint8)
    return placed


def _transform(level: Level, variant: Variant, vectors: int) -> MicroKernel:
    return MicroKernel(_MICRO + "weights", (level.name, variant.m, vectors))
