"""How a tensor's bytes stand for real numbers, and the float32 arithmetic of the operators that say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.memory import Array, aligned_empty
from graphopt.machine.cpu import host_cpu


@dataclass(frozen=True, slots=True)
class Quantization:
    """One scale and zero point for a whole u8 or s8 tensor, as ONNX QuantizeLinear and DequantizeLinear take them.

    Raises ValueError for a scale that is not a positive finite float32 or a zero point outside the type.
    """

    scale: float
    zero_point: int
    signed: bool = False

    def __post_init__(self) -> None:
        scale = np.float32(self.scale)
        if not np.isfinite(scale) or scale <= 0:
            raise ValueError(f"scale must be positive and finite, got {self.scale}")
        object.__setattr__(self, "scale", float(scale))
        if not self.low <= self.zero_point <= self.high:
            raise ValueError(f"zero point {self.zero_point} is not in {self.low} … {self.high}")

    @property
    def low(self) -> int:
        """The least code."""
        return -128 if self.signed else 0

    @property
    def high(self) -> int:
        """The greatest code."""
        return 127 if self.signed else 255

    @property
    def dtype(self) -> npt.DTypeLike:
        """The codes' numpy type."""
        return np.int8 if self.signed else np.uint8

    @property
    def kind(self) -> str:
        """The codes' pointer kind in kernel declarations."""
        return "i8*" if self.signed else "u8*"

    def codes(self) -> Array:
        """All 256 codes in the order of their bits read as u8: the order of a table's entries."""
        return np.arange(256, dtype=np.uint8).view(self.dtype)

    def dequantize(self, codes: Array) -> npt.NDArray[np.float32]:
        """DequantizeLinear: float32(code - zero point) · scale."""
        return (codes.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)

    def quantize(self, values: npt.NDArray[np.float32]) -> Array:
        """QuantizeLinear: saturate(round_half_even(value / scale) + zero point); NaN gives the zero point."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(values.astype(np.float32) / np.float32(self.scale))
        scaled = np.where(np.isnan(scaled), np.float32(0), scaled)
        limited = np.clip(scaled, self.low - self.zero_point, self.high - self.zero_point)
        return (limited.astype(np.int32) + self.zero_point).astype(self.dtype)

    def requantization(self, y: Quantization) -> npt.NDArray[np.uint8]:
        """The table of 256 bytes that turns codes of this quantization into codes of y: Dequantize, then Quantize."""
        return y.quantize(self.dequantize(self.codes())).view(np.uint8)


def aligned_table(table: Array) -> npt.NDArray[np.uint8]:
    """256 one-byte entries where kernels want them. Raises ValueError for another size."""
    if table.size != 256 or table.itemsize != 1:
        raise ValueError(f"a table has 256 bytes, got {table.dtype} {table.shape}")
    placed = aligned_empty(256)
    placed[:] = table.reshape(-1).view(np.uint8)
    return placed


def aligned_rows(tables: Array) -> npt.NDArray[np.uint8]:
    """A copy of one-byte tables, row after row, that starts on a cache line."""
    placed = aligned_empty(tables.size)
    placed[:] = np.ascontiguousarray(tables).reshape(-1).view(np.uint8)
    return placed


def table_look_up() -> MicroKernel:
    """The compiled table look-up void(x, y, count, table) for the level in force."""
    return MicroKernel(
        "graphopt.kernels.micro.lookup_table:emit", ("permute" if looks_up(select_level()) else "scalar",)
    )


def looks_up(level: Level) -> bool:
    """Whether code of this level may look 64 bytes up in a table at once (vpermi2b)."""
    return level.lanes == 16 and "avx512vbmi" in host_cpu()[1]
