"""Grids of few bits for blocks of weights: the search for scales and zero points of least cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array, whole_lines
from graphopt.kernels.core.steps import SCRATCH, Buffer, Routine, Step, run_routine

LANES, PLACES = 64, 16
"""Blocks of a tile, and scratch arrays of LANES numbers: equal to those of `kernels.loops.weights.grids`."""
SEARCH = Kernel(
    "graphopt.kernels.loops.weights.grids:search",
    {
        "x": "f32*", "cost": "f32*", "count": "i64", "per_row": "i64", "block": "i64", "shares": "f32*",
        "share_count": "i64", "most": "i64", "first_kind": "i64", "kinds": "i64", "scale": "f32*", "error": "f32*",
        "zeroed_scale": "f32*", "zero": "i8*", "zeroed_error": "f32*", "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip
NEAREST = Kernel(
    "graphopt.kernels.loops.weights.grids:nearest",
    {
        "x": "f32*", "count": "i64", "block": "i64", "scale": "f32*", "zero": "i8*", "most": "i64", "codes": "i8*",
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlockGrids:
    """For blocks [M]: scale f32 and squared error f32 of symmetric grids, then scale, zero point int8 and error of
    grids with zero points. A kind that was not searched is 0."""

    scale: Array
    error: Array
    zeroed_scale: Array
    zero: Array
    zeroed_error: Array


def search_grids(
    blocks: Array, costs: Array, bits: int, shares: Sequence[float], workers: int = 1, zeroed: bool | None = None
) -> BlockGrids:  # fmt: skip
    """The grids of least cost with nearest codes of `bits`, for blocks f32 [M, block], `block` a multiple of 4.

    costs: f32 [B, block], the weights of squared errors, cyclic over the B blocks of a row. shares: the shares of a
    block's range to try, each with its scale refitted by least squares to its codes. zeroed: True searches only grids
    with zero points, False only those without, None both.
    """
    count, block = blocks.shape
    found = BlockGrids(*(np.zeros(count, kind) for kind in ("f4", "f4", "f4", "i1", "f4")))
    if not count:
        return found
    scratch = whole_lines(4 * LANES * (2 * block + PLACES))
    step = Step(
        SEARCH,
        {
            "x": Buffer("x"), "cost": Buffer("cost"), "count": count, "per_row": len(costs), "block": block,
            "shares": np.array(shares, np.float32), "share_count": len(shares), "most": (1 << (bits - 1)) - 1,
            "first_kind": 1 if zeroed else 0, "kinds": 2 if zeroed is None else 1,
            "scale": Buffer("scale"), "error": Buffer("error"), "zeroed_scale": Buffer("zeroed_scale"),
            "zero": Buffer("zero"), "zeroed_error": Buffer("zeroed_error"), "scratch": SCRATCH,
            "scratch_bytes": scratch,
        },
        tiles=-(-count // LANES),
        grain=4,
        scratch=scratch,
    )  # fmt: skip
    buffers = {
        "x": np.ascontiguousarray(blocks, np.float32), "cost": np.ascontiguousarray(costs, np.float32),
        "scale": found.scale, "error": found.error, "zeroed_scale": found.zeroed_scale, "zero": found.zero,
        "zeroed_error": found.zeroed_error,
    }  # fmt: skip
    run_routine(Routine((step,)), buffers, workers=workers)
    return found


def nearest_codes(blocks: Array, scale: Array, zero: Array | None, bits: int, workers: int = 1) -> Array:
    """The nearest int8 codes of blocks f32 [M, block] on grids scale · (code − zero): scale f32 [M] of either sign,
    zero int8 [M] or None for 0."""
    count, block = blocks.shape
    codes = np.empty(blocks.shape, np.int8)
    if not count:
        return codes
    arguments = {
        "x": Buffer("x"), "count": count, "block": block, "scale": Buffer("scale"), "zero": Buffer("zero"),
        "most": (1 << (bits - 1)) - 1, "codes": Buffer("codes"),
    }  # fmt: skip
    step = Step(NEAREST, arguments, tiles=-(-count // LANES), grain=64)
    zeros = np.zeros(count, np.int8) if zero is None else np.ascontiguousarray(zero, np.int8)
    buffers: dict[str, Array] = {
        "x": np.ascontiguousarray(blocks, np.float32), "scale": np.ascontiguousarray(scale, np.float32),
        "zero": zeros, "codes": codes,
    }  # fmt: skip
    run_routine(Routine((step,)), buffers, workers=workers)
    return codes
