"""Block sizes of Winograd convolution: tiles per block, and rows of the product's register tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from graphopt.kernels.core.levels import Level
from graphopt.kernels.winograd.algebra import Variant

# `python -m tests.bench.winograd` shows the effect of these.
_LARGEST_BLOCK = 64  # tiles
_WORKING_SET = 640 * 1024  # bytes of V and M, which should stay in a second-level cache
_STREAM = 16  # bytes a cycle at which transformed weights arrive from the last-level cache
_ROW_TILE_OVERHEAD = 10  # cycles to begin and to end a register tile


@dataclass(frozen=True, slots=True)
class Blocks:
    """`block` tiles are transformed together and multiplied `main` rows at a time, then `tail` rows once, or 0."""

    block: int
    main: int
    tail: int

    @property
    def rows(self) -> int:
        """The rows of V and M."""
        return -(-self.block // self.main) * self.main


def _tallest(level: Level, vectors: int) -> int:
    """Rows of the tallest register tile whose sums, weights and a broadcast fit the registers."""
    registers = 32 if level.lanes == 16 else 16
    return min(14, (registers - vectors - 1) // vectors)


def _tile_cycles(rows: int, vectors: int, depth: int) -> float:
    """Cycles of a tile: two dot products and two loads a cycle; few sums wait for the dot product's latency of four."""
    per_pair = max(rows * vectors / 2, (rows + vectors) / 2 + 0.25, 4.0)
    return per_pair * depth / 2 + rows * vectors + _ROW_TILE_OVERHEAD


@cache
def choose_blocks(
    level: Level, variant: Variant, tiles: int, channels: int, vectors: int, on_the_fly: bool = False
) -> Blocks:
    """The cheapest sizes by counting instructions and the weights that each block streams or transforms."""
    tallest = _tallest(level, vectors)
    shortest = min(tallest, 4)
    row_bytes = variant.positions * (2 * channels + 4 * level.lanes * vectors)
    largest = max(tallest, min(_LARGEST_BLOCK, _WORKING_SET // row_bytes, tiles))
    stream = variant.positions * channels * 2 * vectors * level.lanes / _STREAM  # cycles to fetch a panel

    def cost(blocks: Blocks) -> float:
        count, last = -(-tiles // blocks.block), (tiles - 1) % blocks.block + 1
        full, rest = (
            _cycles(size, blocks.main, blocks.tail, vectors, channels) * variant.positions
            for size in (blocks.block, last)
        )
        transforms = count * stream / 4 if on_the_fly else 0.0
        return (count - 1) * max(full, stream) + max(rest, stream) + transforms

    sizes = range(1, min(largest, max(tiles, 1)) + 1)
    candidates = (
        Blocks(block, main, block % main) for block in sizes for main in range(min(shortest, block), tallest + 1)
    )
    return min(candidates, key=cost)


def _cycles(tiles: int, main: int, tail: int, vectors: int, channels: int) -> float:
    mains, rest = divmod(tiles, main)
    fits = 0 < rest <= tail
    mains += rest > 0 and not fits
    return mains * _tile_cycles(main, vectors, channels) + (_tile_cycles(tail, vectors, channels) if fits else 0.0)
