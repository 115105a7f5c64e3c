"""Integer algebra of Winograd F(m×m, 3×3): weight transform, bound of exactness.

y = Aᵀ [(G w Gᵀ) ∘ (Bᵀ d B)] A (Lavin & Gray, arXiv:1509.09308) on the points 0, ±1, ∞ (m = 2) and 0, ±1, ±2, ∞ (m = 4).
The rows of G are scaled to integers, Aᵀ compensates, and the result is a known multiple of the true sum: 4 for m = 2
and 576 = 9 · 64 for m = 4. Arithmetic modulo 2³² can wrap without harm: the factor 9⁻¹ mod 2³² leaves 2^shift · sum,
which is exact if it fits int32. Bᵀ d B of 8-bit pixels and G w Gᵀ of 8-bit weights fit int16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.memory import Array
from graphopt.kernels.winograd.weights import WeightSums

from ...errors import Declined

_G2 = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int16)
_G4 = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 8]], np.int16)
_INT16 = 32767  # the largest int16


@dataclass(frozen=True, slots=True)
class Variant:
    """F(m×m, 3×3): `m` outputs along an edge, 2^`shift` times the sum after the odd factor is divided out."""

    m: int
    shift: int

    @property
    def size(self) -> int:
        """Pixels along the edge of an input tile."""
        return self.m + 2

    @property
    def positions(self) -> int:
        """Products per tile and pair of channels."""
        return self.size**2

    @property
    def g(self) -> npt.NDArray[np.int16]:
        """The integer weight transform [size][3]."""
        return _G4 if self.m == 4 else _G2


F4 = Variant(4, 6)
F2 = Variant(2, 2)


def check_exact(variant: Variant, weights: WeightSums, bias: Array, x_zero_point: int, x_signed: bool) -> None:
    """Raise Declined unless every value of x gives |2^shift · (Σ (x − zero point) w + bias)| < 2³¹ in every channel.

    weights: of int [O, C, 3, 3] less their zero point; bias: int [O].
    """
    low, high = (-128, 127) if x_signed else (0, 255)
    low, high = low - x_zero_point, high - x_zero_point
    largest = high * weights.positive + low * weights.negative + bias
    smallest = low * weights.positive + high * weights.negative + bias
    reach = np.maximum(np.abs(largest), np.abs(smallest))
    limit = 2**31 >> variant.shift
    worst = int(reach.max(initial=0))
    if worst >= limit:
        channel = int(reach.argmax())
        raise Declined(f"F({variant.m}×{variant.m}, 3×3): channel {channel} can reach |sum| = {worst}, limit {limit}")
    growth = int(np.abs(variant.g).sum(1).max()) ** 2
    if growth * weights.largest > _INT16:
        raise Declined(f"F({variant.m}×{variant.m}, 3×3): transformed weights leave int16")


def pack_transformed(variant: Variant, weights: Array, width: int, depth: int) -> npt.NDArray[np.int16]:
    """G w Gᵀ as int16 [panel][position][depth / 2][width][2]; channels padded with zeros to `depth`."""
    panels = -(-len(weights) // width)
    packed = np.zeros((panels, variant.positions, depth // 2, width, 2), np.int16)
    g = variant.g.astype(np.float32)  # every intermediate value is an integer below 2^24
    for panel in range(panels):
        part = weights[panel * width : (panel + 1) * width].astype(np.float32)
        u = np.einsum("ia,ocab,jb->ijco", g, part, g, optimize=True).reshape(variant.positions, part.shape[1], -1)
        even, odd = u[:, 0::2], u[:, 1::2]
        packed[panel, :, : even.shape[1], : len(part), 0] = even
        packed[panel, :, : odd.shape[1], : len(part), 1] = odd
    return packed
