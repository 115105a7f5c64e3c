"""The parts of random graphs: blocks of one to a dozen nodes, each with its sampling weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..sketch import Sketch
from . import caches, control, elementwise, heads, idioms, infinite, layout, linear, quantized, sizes

Block = Callable[[Sketch], Any]

FAMILIES: dict[str, tuple[tuple[Block, int], ...]] = {
    "elementwise": elementwise.BLOCKS, "layout": layout.BLOCKS, "linear": linear.BLOCKS,
    "idioms": (*idioms.BLOCKS, *heads.BLOCKS), "sizes": sizes.BLOCKS, "control": control.BLOCKS,
    "quantized": quantized.BLOCKS, "infinite": infinite.BLOCKS, "caches": caches.BLOCKS,
}  # fmt: skip
"""Blocks and their sampling weights, by family."""
