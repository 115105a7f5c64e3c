"""The choice between F(4×4,3×3), F(2×2,3×3) and direct 3×3 stride-1 convolution, by a table of measured rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.winograd.algebra import F2, F4, Variant
from graphopt.kernels.winograd.blocks import choose_blocks

_CHANNELS = (32, 64, 128, 256)  # the columns of the table of rates
_FEWEST_CHANNELS = 16  # below, the transforms cost more than the products they save
_CACHE = 1 << 20  # bytes of transformed weights that stay near the core
_STREAM = 60.0  # bytes a nanosecond at which larger ones arrive: 43 in the first block, more in later ones


@dataclass(frozen=True, slots=True)
class Rates:
    """MACs of direct convolution a nanosecond on one thread at 32, 64, 128 and 256 channels, images of many tiles."""

    f4: tuple[float, ...]
    f2: tuple[float, ...]
    direct: tuple[float, ...]


# `python -m tests.bench.winograd --level …`, a Zen 5 core; only the ratios matter.
_RATES = {
    "avx512vnni": Rates((545, 737, 810, 902), (316, 461, 518, 537), (335, 432, 494, 511)),
    "avx2": Rates((330, 412, 426, 460), (216, 257, 272, 280), (117, 126, 131, 130)),
}
_LIKE = {
    "avxvnni": "avx512vnni",
    "portable": "avx2",
}  # unmeasured levels → a level with a like ratio of int16 products to direct convolution


def _rate(rates: tuple[float, ...], channels: int) -> float:
    """The rate of the nearest measured channel count from below."""
    below = [rate for count, rate in zip(_CHANNELS, rates, strict=True) if count <= channels]
    return below[-1] if below else rates[0]


def choose(
    x_shape: Sequence[int], outputs: int, *, pads: Sequence[int] = (1, 1, 1, 1), exact: Sequence[Variant] = (F4, F2),
    level: Level | None = None,
) -> Variant | None:  # fmt: skip
    """The variant expected to be fastest for x [N, H, W, C] → O channels, or None for direct convolution.

    `exact`: the variants that `check_exact` accepts for the weights. The cost of Winograd includes tiles beyond the
    image's edge and the transformed weights read from memory once a block of tiles.
    """
    level = level or select_level()
    batch, height, width, channels = x_shape
    height, width = height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2
    if min(channels, outputs) < _FEWEST_CHANNELS or min(batch, height, width) < 1:
        return None
    rates = _RATES[_LIKE.get(level.name, level.name)]
    macs = 9 * channels * outputs
    best, chosen = batch * height * width * macs / _rate(rates.direct, channels), None
    vectors = min(level.vectors, -(-outputs // level.lanes))
    for variant in exact:
        tiles = batch * -(-height // variant.m) * -(-width // variant.m)
        packed = 2 * variant.positions * channels * outputs
        block = choose_blocks(level, variant, tiles, channels, vectors).block
        nanoseconds = tiles * variant.m**2 * macs / _rate(rates.f4 if variant is F4 else rates.f2, channels)
        if packed > _CACHE:
            nanoseconds = max(nanoseconds, -(-tiles // block) * packed / _STREAM)
        if nanoseconds < best:
            best, chosen = nanoseconds, variant
    return chosen
