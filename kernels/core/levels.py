"""Instruction-set levels: a table, from which the CPU's features or GRAPHOPT_ISA select one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from graphopt.machine.cpu import host_cpu

Dot = Literal["vpdpbusd", "vpmaddubsw", "vpmaddwd", "widen"]


@dataclass(frozen=True, slots=True)
class Level:
    """An instruction set, in the terms of the generators of micro-kernels.

    `lanes` int32 values make a vector; a register tile is `rows` activations by `vectors` vectors of channels.
    `dot` names the four-deep u8·s8 → int32 sequence:

    - ``vpdpbusd``: one instruction, exact.
    - ``vpmaddubsw``: pairs summed in int16; exact only for weights whose pairs cannot overflow, as packing proves.
    - ``vpmaddwd``: exact for any weights, at half that speed; for operands that are not constant.
    - ``widen``: generic vector IR on int16 operands; exact and selectable everywhere.
    """

    name: str
    lanes: int
    rows: int
    vectors: int
    dot: Dot
    requires: frozenset[str]

    @property
    def channels(self) -> int:
        """Output channels of a full register tile, which is also the width of a weight panel."""
        return self.lanes * self.vectors


# Best first. The sums of a tile, a row of weights and a broadcast fit the registers (`python -m tests.bench.kernels`).
LEVELS: tuple[Level, ...] = (
    Level("avx512vnni", 16, 8, 2, "vpdpbusd", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"})),
    Level("avxvnni", 8, 6, 2, "vpdpbusd", frozenset({"avx2", "avxvnni"})),
    Level("avx2", 8, 6, 2, "vpmaddubsw", frozenset({"avx2"})),
    Level("portable", 4, 4, 2, "widen", frozenset()),
)


def available_levels() -> tuple[Level, ...]:
    """Every level this CPU can run, best first."""
    features = host_cpu()[1]
    return tuple(level for level in LEVELS if level.requires <= features)


def select_level(name: str | None = None) -> Level:
    """The level called `name`, else the level in GRAPHOPT_ISA, else the best level of this CPU.

    Raises ValueError for an unknown level or one the CPU lacks (running it would end the process).
    """
    wanted = name or os.environ.get("GRAPHOPT_ISA")
    usable = available_levels()
    if not wanted:
        return usable[0]
    for level in usable:
        if level.name == wanted:
            return level
    raise ValueError(f"no ISA level {wanted!r} on this CPU; usable: {', '.join(level.name for level in usable)}")
