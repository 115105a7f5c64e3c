"""Preparation of batched products of two float32 activations, such as in unquantized attention."""

from __future__ import annotations

from math import prod

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.products.tiles import RowTiles, Strides, cut_rows

_LOOPS = "graphopt.kernels.loops.products.float_product:"
_BLOCK_ROWS = 64  # rows of a unit of work, as in `activation_product`
PACK_FLOATS = Kernel(
    _LOOPS + "pack_floats",
    {
        "b": "i64", "packed": "i64", "strides": Strides, "inner": "i64", "depth": "i64", "channels": "i64",
        "width": "i64", "panels": "i64",
    },
)  # fmt: skip
MULTIPLY_FLOATS = Kernel(
    _LOOPS + "multiply_floats",
    {
        "a": "i64", "y": "i64", "packed": "i64", "a_strides": Strides, "y_strides": Strides, "cut": RowTiles,
        **dict.fromkeys(("inner", "depth", "panels", "width", "big", "small", "last_big", "last_small"), "i64"),
    },
)  # fmt: skip


def prepare_float_product(
    batch: tuple[int, int], sizes: tuple[int, int, int], places: tuple[Strides, Strides, Strides], *,
    level: Level | None = None,
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
    panels, matrices, inner = -(-channels // width), prod(batch), batch[1]
    cut = cut_rows(rows, level.rows)
    cut = cut.in_blocks(_BLOCK_ROWS // cut.tall)

    def kernel(height: int, stored: int) -> MicroKernel | int:
        if height == 0:
            return 0
        source = "graphopt.kernels.micro.float_tile:emit"
        return MicroKernel(source, (level.name, height, vectors, stored))

    last = channels - (panels - 1) * width
    short = cut.tall - 1 if cut.uneven else 0
    packing: dict[str, Argument] = {
        "b": Buffer("b"), "packed": Buffer("packed"), "strides": right.in_bytes(4), "inner": inner, "depth": depth,
        "channels": channels, "width": width, "panels": panels,
    }  # fmt: skip
    multiplying: dict[str, Argument] = {
        "a": Buffer("a"), "y": Buffer("y"), "packed": Buffer("packed"), "a_strides": left.in_bytes(4),
        "y_strides": target.in_bytes(4), "cut": cut, "inner": inner, "depth": depth, "panels": panels, "width": width,
        "big": kernel(cut.tall if panels > 1 else 0, width), "small": kernel(short if panels > 1 else 0, width),
        "last_big": kernel(cut.tall, last), "last_small": kernel(short, last),
    }  # fmt: skip
    macs = matrices * rows * depth * channels
    steps = (
        Step(PACK_FLOATS, packing, tiles=matrices * panels),
        Step(MULTIPLY_FLOATS, multiplying, tiles=matrices * cut.blocks, macs=macs),
    )
    return Routine(steps, {"packed": 4 * matrices * panels * depth * width})
