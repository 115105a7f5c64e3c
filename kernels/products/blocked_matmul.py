"""Preparation of products with weights of 4 or 8 bits in blocks along the depth, each block with its own scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.memory import Array, aligned_copy, whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.products.tiles import RowTiles, cut_rows

BLOCKS = (16, 32, 64, 128, 256)
"""Supported block sizes along the depth: MatMulNBits'."""

_ROWS = 8
"""Rows that share each load and unpacking of weights: more accumulators do not fit the registers."""


class BlockedSizes(NamedTuple):
    """Channels of a panel, channels in total, blocks of a row, depths of a block, bytes of a panel's weights."""

    lanes: int
    channels: int
    blocks: int
    block: int
    panel_bytes: int


QUANTIZE_BLOCKS = Kernel(
    "graphopt.kernels.loops.products.blocked:quantize_blocks",
    {
        "x": "i64", "codes": "i64", "scales": "f32*", "sums": "i32*", "depth": "i64", "block": "i64", "blocks": "i64",
    },
)  # fmt: skip
MULTIPLY_BLOCKED = Kernel(
    "graphopt.kernels.loops.products.blocked:multiply_blocked",
    {
        **dict.fromkeys(("x", "x_scales", "x_sums", "weights", "zeros"), "i64"), "bias": "f32*", "y": "i64",
        "cut": RowTiles, "sizes": BlockedSizes, "big": "i64", "small": "i64", "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlockedWeights:
    """Weights packed for a level: codes and scales, and zero points (None where all are 2^(bits − 1)), by panels.

    A panel has as many channels as a vector has lanes, the last filled up with zero scales. The scales of a block stand
    behind its codes: a token reads one stream of memory, which the processor's own prefetch follows. From two streams
    it reads 0.85 times as fast, and asking for lines ahead does not help (`python -m tests.bench.decoders`).
    """

    level: Level
    bits: int
    block: int
    depth: int
    channels: int
    panels: Array
    zeros: Array | None

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.depth // self.block)

    @property
    def nbytes(self) -> int:
        """All that is read for one token."""
        return self.panels.nbytes + (0 if self.zeros is None else self.zeros.nbytes)


def pack_blocked(
    codes: npt.NDArray[np.uint8], scales: Array, zeros: Array | None, *, bits: int, depth: int,
    level: Level | None = None,
) -> BlockedWeights:  # fmt: skip
    """codes: u8 [channels, blocks, block], not packed; scales: floats, and zeros: u8 [channels, blocks].

    Raises ValueError for other widths, blocks and shapes.
    """
    level = level or select_level()
    channels, blocks, block = codes.shape
    if bits not in (4, 8) or block not in BLOCKS or blocks != -(-depth // block):
        raise ValueError(f"{blocks} blocks of {block} weights of {bits} bits for {depth} inputs")
    if any(a is not None and a.shape != (channels, blocks) for a in (scales, zeros)):
        raise ValueError("scales or zero points that are not one a block")
    lanes = level.lanes
    fours = _in_panels(codes, lanes).reshape(-1, lanes, blocks, block // 4, 4).transpose(0, 2, 3, 1, 4)
    if bits == 4:
        fours = fours[:, :, 0::2] | (fours[:, :, 1::2] << np.uint8(4))
    ordered = np.ascontiguousarray(_in_panels(np.asarray(scales, np.float32), lanes).transpose(0, 2, 1))
    panels = np.concatenate((fours.reshape(len(fours), blocks, -1), ordered.view(np.uint8)), axis=2)
    points = None if zeros is None else aligned_copy(_in_panels(zeros, lanes).transpose(0, 2, 1))
    return BlockedWeights(level, bits, block, depth, channels, aligned_copy(panels), points)


def _in_panels(array: Array, lanes: int) -> Array:
    """[channels, …] as [panels, lanes, …], zeros behind the last channel."""
    missing = -len(array) % lanes
    if missing:
        array = np.concatenate((array, np.zeros((missing, *array.shape[1:]), array.dtype)))
    return array.reshape(-1, lanes, *array.shape[1:])


def prepare_blocked_matmul(
    rows: int, weights: BlockedWeights, bias: Array | None = None, skipped: int = 0
) -> Routine:  # fmt: skip
    """float32 y[rows, N] = x[rows, K] · weights + bias, as MatMulNBits computes with accuracy_level 4.

    Each block of x is rounded to s8 by a scale of its own; sums of a block are exact integers, blocks are added in
    their order in float32. So many rows of x before those are `skipped`.
    """
    if rows == 0:
        return Routine(())
    lanes, blocks, block = weights.level.lanes, weights.blocks, weights.block
    cut = cut_rows(rows, _ROWS)
    panels = -(-weights.channels // lanes)
    quantize: dict[str, Argument] = {
        "x": Buffer("x", 4 * skipped * weights.depth), "codes": Buffer("codes"), "scales": Buffer("scales"),
        "sums": Buffer("sums"), "depth": weights.depth, "block": block, "blocks": blocks,
    }  # fmt: skip
    tile = [
        MicroKernel(
            "graphopt.kernels.micro.blocked_tile:emit",
            (weights.level.name, weights.bits, block, height, weights.zeros is not None),
        )
        for height in (cut.tall, cut.tall - 1 if cut.uneven else cut.tall)
    ]
    added = np.zeros(weights.channels, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
    scratch = whole_lines(4 * lanes * cut.tall)
    multiply: dict[str, Argument] = {
        "x": Buffer("codes"), "x_scales": Buffer("scales"), "x_sums": Buffer("sums"), "weights": weights.panels,
        "zeros": 0 if weights.zeros is None else weights.zeros, "bias": added,
        "y": Buffer("y"), "cut": cut,
        "sizes": BlockedSizes(lanes, weights.channels, blocks, block, len(weights.panels) // panels),
        "big": tile[0], "small": tile[1], "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    macs = rows * weights.depth * weights.channels
    return Routine(
        (
            Step(QUANTIZE_BLOCKS, quantize, tiles=rows * blocks, grain=max(1, 4096 // block)),
            Step(MULTIPLY_BLOCKED, multiply, tiles=panels, grain=max(1, panels // 64), scratch=scratch, macs=macs),
        ),
        {"codes": rows * blocks * block, "scales": 4 * rows * blocks, "sums": 4 * rows * blocks},
        weights.nbytes,
    )
