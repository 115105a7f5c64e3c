"""Grids of few bits for blocks: inputs of one output that share a scale, and a zero point where that lowers the cost.

For each block the scale of least cost, Σ c (w − s (q − z))², is searched among ranges narrower than the block's own,
and refitted by least squares to the resulting codes (llama.cpp's k-quants search similarly). Symmetric grids use the
whole range, with the largest element at the end with the extra code, so scales may be negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....compress.layers.covariance import Covariance
from ....compress.layers.linear import contiguous
from ....ir import Array
from ....kernels.weights.grids import BlockGrids, nearest_codes, search_grids
from ....kernels.weights.halves import widened
from ....machine.cpu import cpu_count
from .grids import LEAST

SHARES = tuple(float(share) for share in np.linspace(1.0, 0.6, 9))
"""Shares of a block's range to try, each refitted: `tests/quantize/test_blocks.py` compares the cost with a search over
91 shares and all zero points, which costs at most 12 % less."""
CHUNK = 1 << 20
"""Weights processed at a time, 4 MB an array: copies of whole weights would take gigabytes.
`python -m tests.bench.memory` prints time and memory."""
MOST_WORKERS = 8
"""The most search threads: more would wait for memory."""
HELD = 1e-4
"""Stiffness of a refitted scale: enough for float32 where blocks are similar, negligible elsewhere."""
SAVED = 0.98
"""Zero points are stored where they lower the cost below this share of it: they cost 1/8 bit a weight of some 5."""
SAMPLED, EVERY = 16, 512
"""The first SAMPLED of every EVERY rows of a large weight, which decide whether zero points pay, so that only grids of
one kind are searched: a thirtieth of the time of both. 16 rows of float32 are a cache line where rows are columns in
memory."""
CLEAR = 0.02
"""The least relative distance of the sample's cost share from `SAVED`; below it both kinds are searched for all rows.
The share of a sample of 2¹³ blocks of normal numbers is off by 0.002."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The grid of each block. scale: f32 [N, B]. zero: int8 [N, B], the code of 0; None where 0 everywhere. cost: the
    weighted squared error of nearest rounding."""

    scale: Array
    zero: Array | None
    cost: float


def stored_bits(bits: int) -> int:
    """The bits of a packed code: onnxruntime's products take 2, 4 and 8, so a 3-bit code occupies 4."""
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


def best_grid(rows: Array, cost: Array | None, bits: int, block: int, codes: Array | None = None) -> BlockGrid:
    """The grid of rows f32 or f16 [N, K] whose nearest codes cost least by the weight c [K] of each input's error.

    cost: None for equal weights. codes: int8 [N, K], the output array for the codes.
    """
    costs = np.ones((1, block), np.float32) if cost is None else in_blocks(cost.astype(np.float32), block)
    zeroed = _needs_zeros(rows, costs, bits, block)
    found = list[BlockGrids]()
    for at, part in in_parts(rows):
        found.append(_search(part, costs, bits, block, zeroed))
        if codes is not None and zeroed is not None:
            codes[at : at + len(part)] = _nearest(part, found[-1], bits, block, zeroed)
    if zeroed is None:
        zeroed = sum(_cost(g, True) for g in found) < SAVED * sum(_cost(g, False) for g in found)
        if codes is not None:
            for grids, (at, part) in zip(found, in_parts(rows)):
                codes[at : at + len(part)] = _nearest(part, grids, bits, block, zeroed)
    total = sum(_cost(grids, zeroed) for grids in found)
    scale, zero = (np.concatenate(parts).reshape(len(rows), -1) for parts in zip(*(_grid(g, zeroed) for g in found)))
    return BlockGrid(scale, zero if zeroed else None, total)


def fitted_scale(rows: Array, steps: Array, scale: Array, covariance: Covariance, block: int) -> Array:
    """The scales s [N, B] of least J = tr(Δ C Δᵀ), Δ = W − s θ, for rows W and steps θ = q − z, f32 [N, K].

    A row's J is a quadratic form of its scales, whose matrix is θ_aᵀ C_ab θ_b for blocks a and b. Each scale is held to
    its former value by `HELD` of the diagonal; that of a zero block is fixed.
    """
    found, depth, count = np.empty_like(scale), rows.shape[1], scale.shape[1]
    size = max(1, CHUNK // max(depth, count**2))
    for at in range(0, len(rows), size):
        part = slice(at, at + size)
        codes = in_blocks(steps[part], block)
        wanted = np.einsum("nbk,nbk->nb", in_blocks(rows[part] @ covariance, block), codes)
        matrix = np.empty((len(codes), count, count), np.float32)
        for b in range(count):  # C is symmetric: the blocks before b are known
            near = covariance[slice(b * block, (b + 1) * block), slice(b * block, depth)]
            seen = in_blocks(codes[:, b, : len(near)] @ near, block)
            matrix[:, b, b:] = np.einsum("nak,nak->na", seen, codes[:, b:])
            matrix[:, b:, b] = matrix[:, b, b:]
        own = np.einsum("nbb->nb", matrix)
        held = np.where(own > 0, own * np.float32(HELD), np.float32(1))
        own += held
        wanted += held * scale[part]
        found[part] = np.linalg.solve(matrix, wanted[..., None])[..., 0]
    return np.where(np.isfinite(found) & (np.abs(found) > LEAST), found, scale)


def _needs_zeros(rows: Array, costs: Array, bits: int, block: int) -> bool | None:
    """Whether zero points are worth their bytes, by sampled rows of a large weight; None where unclear."""
    if rows.size <= CHUNK or len(rows) < 2 * EVERY:
        return None
    some = [_search(part, costs, bits, block) for at in range(0, len(rows), EVERY)
            for _, part in in_parts(rows[at : at + SAMPLED])]  # fmt: skip
    share = sum(_cost(g, True) for g in some) / max(sum(_cost(g, False) for g in some), LEAST)
    return None if abs(share / SAVED - 1) < CLEAR else share < SAVED


def _search(part: Array, costs: Array, bits: int, block: int, zeroed: bool | None = None) -> BlockGrids:
    return search_grids(in_blocks(part, block).reshape(-1, block), costs, bits, SHARES, _workers(), zeroed)


def _nearest(part: Array, grids: BlockGrids, bits: int, block: int, zeroed: bool) -> Array:
    """The nearest codes int8 of rows f32 [N, K]."""
    scale, zero = _grid(grids, zeroed)
    codes = nearest_codes(in_blocks(part, block).reshape(-1, block), scale, zero, bits, _workers())
    return codes.reshape(len(part), -1)[:, : part.shape[1]]


def _grid(grids: BlockGrids, zeroed: bool) -> tuple[Array, Array]:
    """Scales and zero points of one kind; the other has the zero points 0."""
    return (grids.zeroed_scale, grids.zero) if zeroed else (grids.scale, np.zeros_like(grids.zero))


def _cost(grids: BlockGrids, zeroed: bool) -> float:
    return float((grids.zeroed_error if zeroed else grids.error).sum(dtype=np.float64))


def _workers() -> int:
    return min(cpu_count(), MOST_WORKERS)


def in_parts(rows: Array) -> Iterator[tuple[int, Array]]:
    """Rows [N, K] of any layout as contiguous f32 arrays of some rows each, `CHUNK` elements at most, with the number
    of the first."""
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        part = contiguous(rows[start : start + step])
        yield start, widened(part) if part.dtype == np.float16 else part.astype(np.float32, copy=False)


def _live(scale: Array) -> Array:
    """Scales as f32, with 1 for scales too small, whose blocks are 0."""
    return np.asarray(np.where(np.abs(scale) > LEAST, scale, 1.0), np.float32)
