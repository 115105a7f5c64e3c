"""Preparation of products of two float32 activations, batched: attention that was left in float."""

from __future__ import annotations

from math import prod

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.products.activation_product import Strides

_LOOPS = "graphopt.kernels.loops.products.float_product:"
_BLOCK_ROWS = 64
# fmt: off
_PACK = ("b", "packed", "inner", "b_outer", "b_inner", "b_row", "b_column", "depth", "channels", "width", "panel_count")
_MULTIPLY = ("a", "y", "packed", "inner", "a_outer", "a_inner", "a_row", "y_outer", "y_inner", "y_row", "depth", "tall",
             "tall_tiles", "tiles", "block", "blocks", "panel_count", "width", "big", "small", "last_big", "last_small")
# fmt: on
PACK_FLOATS = Kernel(_LOOPS + "pack_floats", dict.fromkeys(_PACK, "i64"))
MULTIPLY_FLOATS = Kernel(_LOOPS + "multiply_floats", dict.fromkeys(_MULTIPLY, "i64"))


def prepare_float_product(
    batch: tuple[int, int], sizes: tuple[int, int, int], places: tuple[Strides, Strides, Strides],
    *, level: Level | None = None,
) -> Routine:  # fmt: skip
    """float32 y[o, i] = a[o, i] · b[o, i] for o, i of `batch`; sizes: (m, k, n), `places` the strides of a, b and y.

    The columns of a and y lie side by side. Each sum runs in the order of k in one accumulator, fused where the
    processor fuses. Raises ValueError for other strides.
    """
    rows, depth, channels = sizes
    left, right, target = places
    if left.column != 1 or target.column != 1:
        raise ValueError(f"no kernel for a product of {sizes} at {places}")
    if prod(batch) * rows * channels == 0:
        return Routine(())
    level = level or select_level()
    vectors = 1 if channels <= level.lanes else level.vectors
    width = vectors * level.lanes
    panel_count, matrices, inner = -(-channels // width), prod(batch), batch[1]
    tiles = -(-rows // level.rows)
    tall = -(-rows // tiles)
    tall_tiles = rows - tiles * (tall - 1)
    block = max(1, min(tiles, _BLOCK_ROWS // tall))
    blocks = -(-tiles // block)

    def kernel(height: int, stored: int) -> MicroKernel | int:
        if height == 0:
            return 0
        source = "graphopt.kernels.micro.float_tile:emit"
        return MicroKernel(source, (level.name, height, vectors, stored))

    last = channels - (panel_count - 1) * width
    short = tall - 1 if tall_tiles < tiles else 0
    packing: dict[str, Argument] = {
        "b": Buffer("b"), "packed": Buffer("packed"), "inner": inner, "b_outer": 4 * right.outer,
        "b_inner": 4 * right.inner, "b_row": 4 * right.row, "b_column": 4 * right.column, "depth": depth,
        "channels": channels, "width": width, "panel_count": panel_count,
    }  # fmt: skip
    multiplying: dict[str, Argument] = {
        "a": Buffer("a"), "y": Buffer("y"), "packed": Buffer("packed"), "inner": inner, "a_outer": 4 * left.outer,
        "a_inner": 4 * left.inner, "a_row": 4 * left.row, "y_outer": 4 * target.outer, "y_inner": 4 * target.inner,
        "y_row": 4 * target.row, "depth": depth, "tall": tall, "tall_tiles": tall_tiles, "tiles": tiles,
        "block": block, "blocks": blocks, "panel_count": panel_count, "width": width,
        "big": kernel(tall if panel_count > 1 else 0, width), "small": kernel(short if panel_count > 1 else 0, width),
        "last_big": kernel(tall, last), "last_small": kernel(short, last),
    }  # fmt: skip
    macs = matrices * rows * depth * channels
    steps = (
        Step(PACK_FLOATS, packing, tiles=matrices * panel_count),
        Step(MULTIPLY_FLOATS, multiplying, tiles=matrices * blocks, macs=macs),
    )
    return Routine(steps, {"packed": 4 * matrices * panel_count * depth * width})
