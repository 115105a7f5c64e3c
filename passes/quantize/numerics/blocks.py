"""Grids of few bits for blocks: inputs of one output that share a scale, and a zero point where that serves them.

For each block a scale is sought that costs least, Σ c (w − s (q − z))², among narrower ranges than the block's own, and
refitted by least squares to the codes it leads to (llama.cpp's k-quants search alike). Symmetric grids use the whole
range, with the largest element at the end that has one code more, so scales may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....ir import Array
from .grids import LEAST

SHARES = tuple(float(share) for share in np.linspace(1.0, 0.6, 9))
"""Shares of a block's range that are tried, each refitted: `tests/quantize/test_blocks.py` holds the cost against that
of a search over 91 shares and all zero points, at most 12 % less."""
CHUNK = 1 << 18
"""Weights searched at a time, 1 MB an array: of 2^15 to 2^18 these were the fastest, on cores with 2 MB of their own.
`python -m tests.bench.language` prints the time."""
SAVED = 0.98
"""Zero points are stored where they lower the cost below this share of it: they cost 1/8 bit a weight of some 5."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """scale: f32 [N, B] of each block. zero: int8 [N, B], the code of 0; None where that is 0 everywhere. cost: the
    weighted squared error of nearest rounding."""

    scale: Array
    zero: Array | None
    cost: float


def stored_bits(bits: int) -> int:
    """The bits of a packed code: onnxruntime's products take 2, 4 and 8, so a code of 3 takes the room of 4."""
    return 4 if bits == 3 else bits


def block_count(depth: int, block: int) -> int:
    """Blocks of `block` inputs that hold `depth`; the last may be partial."""
    return -(-depth // block)


def spread(per_block: Array, depth: int, block: int | None) -> Array:
    """A number for each block [..., B] as one for each input: [..., K]."""
    if block is None or per_block.shape[-1] == 1:
        return np.broadcast_to(per_block[..., :1], (*per_block.shape[:-1], depth))
    return np.repeat(per_block, block, axis=-1)[..., :depth]


def in_blocks(rows: Array, block: int) -> Array:
    """Rows [..., K] as [..., B, block]; the last block is filled with zeros."""
    depth = rows.shape[-1]
    missing = block_count(depth, block) * block - depth
    if missing:
        rows = np.pad(rows, (*((0, 0),) * (rows.ndim - 1), (0, missing)))
    return rows.reshape(*rows.shape[:-1], -1, block)


def plain_scale(rows: Array, bits: int, block: int) -> Array:
    """The scales [..., B] of nearest rounding: each block's largest magnitude is its greatest code."""
    peaks = np.abs(in_blocks(rows, block)).max(axis=-1) / np.float32((1 << (bits - 1)) - 1)
    return _live(peaks)


def best_grid(rows: Array, cost: Array, bits: int, block: int) -> BlockGrid:
    """The grid of rows f32 [N, K] whose nearest codes cost least by the weight c [K] of each input's error."""
    blocks, costs = in_blocks(rows, block), in_blocks(cost.astype(np.float32), block)
    count = blocks.shape[1]
    step = max(1, CHUNK // (count * block))
    parts = []
    for start in range(0, len(blocks), step):
        some = blocks[start : start + step]
        across = np.ascontiguousarray(some.reshape(-1, block).T)
        weights = np.ascontiguousarray(np.tile(costs.T, len(some)))
        parts.append(_search(across, weights, bits))
    symmetric, with_zeros = (tuple(np.concatenate([part[k][j] for part in parts]) for j in range(3)) for k in (0, 1))
    plain, zeroed = float(symmetric[2].sum(dtype=np.float64)), float(with_zeros[2].sum(dtype=np.float64))
    if zeroed < SAVED * plain:
        return BlockGrid(with_zeros[0].reshape(-1, count), with_zeros[1].astype(np.int8).reshape(-1, count), zeroed)
    return BlockGrid(symmetric[0].reshape(-1, count), None, plain)


def _search(blocks: Array, costs: Array, bits: int) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """(scale, zero, cost), each [M], of symmetric grids and of those with zero points, for blocks [block, M] and the
    costs of their elements: an input of all blocks lies together, so that a number a block is spread along rows."""
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    low, high = np.minimum(blocks.min(axis=0), 0), np.maximum(blocks.max(axis=0), 0)
    none = np.zeros(low.shape, np.float32)
    end = np.where(high > -low, -high, -low) / np.float32(-least)  # the larger end is the code −2^(bits − 1)
    symmetric, zeroed = _Best(blocks, costs, least, most), _Best(blocks, costs, least, most)
    plain = np.maximum(high, -low) / np.float32(most)
    for share in SHARES:
        symmetric.offer(_live(end * np.float32(share)), none)
        symmetric.offer(_live(plain * np.float32(share)), none)
        scale = _live((high - low) * np.float32(share / (most - least)))
        zeroed.offer(scale, np.clip(np.rint(least - low * np.float32(share) / scale), least, most))
    return symmetric.found, zeroed.found


class _Best:
    """The least costly of the grids offered for blocks [block, M], each with its scale refitted to its codes."""

    def __init__(self, blocks: Array, costs: Array, least: int, most: int) -> None:
        self.blocks, self.costs = blocks, costs
        self.least, self.most = np.float32(least), np.float32(most)
        self._weighted = blocks * costs
        self._energy = np.einsum("km,km->m", blocks, self._weighted)
        self._steps_room, self._room = np.empty_like(blocks), np.empty_like(blocks)
        self._kept: tuple[Array, Array, Array] = (np.empty(0), np.empty(0), np.empty(0))

    @property
    def found(self) -> tuple[Array, Array, Array]:
        """(scale, zero, cost) of nearest rounding on the grids kept."""
        scale, zero, _ = self._kept
        wrong = self.blocks - self._steps(scale, zero) * scale
        return scale, zero, np.einsum("km,km->m", wrong, wrong * self.costs)

    def offer(self, scale: Array, zero: Array) -> None:
        """Keep a grid where it costs less than those before.

        With codes q, Σ c (w − s q)² = Σ c w² − 2 s Σ c w q + s² Σ c q², which is least at s = Σ c w q / Σ c q².
        """
        steps = self._steps(scale, zero)
        square = np.einsum("km,km->m", steps, np.multiply(steps, self.costs, out=self._room))
        cross = np.einsum("km,km->m", steps, self._weighted)
        fitted = cross / np.where(square > 0, square, 1)
        fitted = np.where(np.abs(fitted) > LEAST, fitted, scale).astype(np.float32)
        cost = self._energy + fitted * (fitted * square - 2 * cross)
        if not self._kept[2].size:
            self._kept = (fitted, zero.copy(), cost)
            return
        better = cost < self._kept[2]
        for kept, new in zip(self._kept, (fitted, zero, cost)):
            kept[better] = new[better]

    def _steps(self, scale: Array, zero: Array) -> Array:
        steps = np.multiply(self.blocks, 1 / scale, out=self._steps_room)
        np.rint(steps, out=steps)
        np.maximum(steps, self.least - zero, out=steps)
        return np.asarray(np.minimum(steps, self.most - zero, out=steps))


def _live(scale: Array) -> Array:
    """Scales as f32, 1 in place of those too small: their blocks are 0."""
    return np.asarray(np.where(np.abs(scale) > LEAST, scale, 1.0), np.float32)
