"""Blocked weights as models store them; packed for kernels when first needed, then shared by all executables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ....ir import Array, Constant
from ....kernels.products.blocked_matmul import BlockedWeights, pack_blocked


@dataclass(eq=False)
class StoredBlocks:
    """Codes, scales and zero points (None means 2^(bits − 1)) as constants of the model.

    `by_column`: as MatMulNBits stores them, codes [N, blocks, block · bits / 8] packed and zero points packed along
    blocks; else as DequantizeLinear does, codes [K, N], or [N, K] if `transposed`, and the others [blocks, N], or one a
    column or for all, signed or not.
    """

    codes: Constant
    scale: Constant
    zero: Constant | None
    bits: int
    block: int
    depth: int
    channels: int
    by_column: bool
    transposed: bool = False

    @property
    def kernel_bits(self) -> int:
        """The code width that kernels read: 2-bit codes are unpacked to 4."""
        return max(self.bits, 4)

    @cached_property
    def packed(self) -> BlockedWeights:
        """The weights packed for kernels. ValueError for sizes that kernels do not take."""
        blocks = -(-self.depth // self.block)
        if self.by_column:
            codes = _unpacked(self.codes.array(), self.bits).reshape(self.channels, blocks, self.block)
            scales = self.scale.array().reshape(self.channels, blocks)
            zeros = np.full((self.channels, blocks), 2, np.uint8) if self.bits == 2 else None
            if self.zero is not None:
                rows = self.zero.array().reshape(self.channels, -1)
                zeros = _unpacked(rows, self.bits).reshape(self.channels, -1)[:, :blocks]
            return pack_blocked(codes, scales, zeros, bits=self.kernel_bits, depth=self.depth)
        stored = self.codes.array() if self.transposed else self.codes.array().T
        middle = 1 << (self.bits - 1)
        shift = middle if self.codes.dtype.name.startswith("INT") else 0
        codes = np.full((self.channels, blocks * self.block), middle, np.uint8)
        codes[:, : self.depth] = (stored.astype(np.int16) + shift).astype(np.uint8)
        zeros = np.full((self.channels, blocks), shift, np.uint8)
        if self.zero is not None:
            zeros[:] = self._by_block((self.zero.array().astype(np.int16) + shift).astype(np.uint8))
        scales = np.broadcast_to(self._by_block(self.scale.array()), (self.channels, blocks))
        return pack_blocked(
            codes.reshape(self.channels, blocks, self.block), scales, None if (zeros == middle).all() else zeros,
            bits=self.bits, depth=self.depth,
        )  # fmt: skip

    def _by_block(self, stored: Array) -> Array:
        """Scales or zero points [blocks, N] as [N, blocks]; one a column or for all as [N, 1] or [1, 1]."""
        return stored.T if stored.ndim == 2 else stored.reshape(-1, 1)


def _unpacked(packed: Array, bits: int) -> Array:
    """Unpacked codes of 2 or 4 bits, the first in the lowest bits of each byte; 8-bit codes unchanged."""
    flat = packed.reshape(-1).view(np.uint8)
    if bits == 8:
        return flat
    codes = np.empty((flat.size, 8 // bits), np.uint8)
    for place in range(8 // bits):
        np.bitwise_and(flat >> np.uint8(place * bits), (1 << bits) - 1, out=codes[:, place])
    return codes.reshape(-1)
