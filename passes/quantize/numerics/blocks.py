"""Grids of few bits for blocks: inputs of one output that share a scale, and a zero point where that serves them.

For each block a scale is sought that costs least, Σ c (w − s (q − z))², among narrower ranges than the block's own, and
refitted by least squares to the codes it leads to (llama.cpp's k-quants search alike). Symmetric grids use the whole
range, with the largest element at the end that has one code more, so scales may be negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....compress.layers.linear import contiguous
from ....ir import Array
from ....kernels.weights.grids import search_grids
from ....machine.cpu import cpu_count
from .grids import LEAST

SHARES = tuple(float(share) for share in np.linspace(1.0, 0.6, 9))
"""Shares of a block's range that are tried, each refitted: `tests/quantize/test_blocks.py` holds the cost against that
of a search over 91 shares and all zero points, at most 12 % less."""
CHUNK = 1 << 20
"""Weights that are worked on at a time, 4 MB an array: copies of whole weights would take gigabytes.
`python -m tests.bench.memory` prints time and memory."""
MOST_WORKERS = 8
"""Threads that search at most: more would wait for memory."""
HELD = 1e-4
"""Stiffness of a refitted scale: enough for float32 where blocks are alike, too little to matter elsewhere."""
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
    costs = in_blocks(cost.astype(np.float32), block)
    found = [
        search_grids(in_blocks(part, block).reshape(-1, block), costs, bits, SHARES, min(cpu_count(), MOST_WORKERS))
        for part in in_parts(rows)
    ]
    plain, zeroed = (sum(float(error.sum(dtype=np.float64)) for error in errors) for errors in (
        [grids.error for grids in found], [grids.zeroed_error for grids in found]
    ))  # fmt: skip
    if zeroed < SAVED * plain:
        scale, zero = (np.concatenate(parts) for parts in zip(*((g.zeroed_scale, g.zero) for g in found)))
        return BlockGrid(scale.reshape(len(rows), -1), zero.reshape(len(rows), -1), zeroed)
    return BlockGrid(np.concatenate([grids.scale for grids in found]).reshape(len(rows), -1), None, plain)


def fitted_scale(rows: Array, steps: Array, scale: Array, covariance: Array, block: int) -> Array:
    """The scales s [N, B] of least J = tr(Δ C Δᵀ), Δ = W − s θ, for rows W and steps θ = q − z, f32 [N, K].

    A row's J is a quadratic form of its scales, whose matrix is θ_aᵀ C_ab θ_b for blocks a and b. Each is held to the
    scale it had by `HELD` of its diagonal, a block of zeros wholly.
    """
    found, depth, count = np.empty_like(scale), rows.shape[1], scale.shape[1]
    padded = np.zeros((count * block,) * 2, np.float32)
    padded[:depth, :depth] = covariance
    size = max(1, CHUNK // max(depth, count**2))
    for at in range(0, len(rows), size):
        part = slice(at, at + size)
        codes = in_blocks(steps[part], block)
        wanted = np.einsum("nbk,nbk->nb", in_blocks(rows[part] @ covariance, block), codes)
        matrix = np.empty((len(codes), count, count), np.float32)
        for b in range(count):  # C is symmetric: the blocks before b are known
            seen = codes[:, b] @ padded[b * block : (b + 1) * block, b * block :]
            matrix[:, b, b:] = np.einsum("nak,nak->na", seen.reshape(len(codes), -1, block), codes[:, b:])
            matrix[:, b:, b] = matrix[:, b, b:]
        own = np.einsum("nbb->nb", matrix)
        held = np.where(own > 0, own * np.float32(HELD), np.float32(1))
        own += held
        wanted += held * scale[part]
        found[part] = np.linalg.solve(matrix, wanted[..., None])[..., 0]
    return np.where(np.isfinite(found) & (np.abs(found) > LEAST), found, scale)


def in_parts(rows: Array) -> Iterator[Array]:
    """Rows [N, K] of any layout as contiguous f32 arrays of some rows each, `CHUNK` elements at most."""
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        yield contiguous(rows[start : start + step]).astype(np.float32, copy=False)


def _live(scale: Array) -> Array:
    """Scales as f32, 1 in place of those too small: their blocks are 0."""
    return np.asarray(np.where(np.abs(scale) > LEAST, scale, 1.0), np.float32)
