"""Tables of 256 bytes, indexed by a code's bits read as u8: any function of one code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.memory import Array, aligned_copy
from graphopt.machine.cpu import host_cpu


def aligned_table(table: Array) -> npt.NDArray[np.uint8]:
    """A table of 256 one-byte entries on a cache line. Raises ValueError for another size."""
    if table.size != 256 or table.itemsize != 1:
        raise ValueError(f"a table has 256 bytes, got {table.dtype} {table.shape}")
    return aligned_copy(table)


def table_look_up() -> MicroKernel:
    """The compiled look-up void(x, y, count, table) for the selected level."""
    form = "permute" if looks_up(select_level()) else "scalar"
    return MicroKernel("graphopt.kernels.micro.lookup_table:emit", (form,))


def looks_up(level: Level) -> bool:
    """Whether code of this level may look 64 bytes up in a table at once (vpermi2b)."""
    return level.lanes == 16 and "avx512vbmi" in host_cpu()[1]
