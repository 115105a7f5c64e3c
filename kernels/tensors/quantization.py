"""Affine quantization per tensor, and the float32 arithmetic of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.memory import Array


class CodeRecord(NamedTuple):
    """A quantization as loops take it: scale, zero point, least and greatest code."""

    scale: float
    zero: int
    least: int
    greatest: int


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

    @property
    def record(self) -> CodeRecord:
        """This quantization as loops take it."""
        return CodeRecord(self.scale, self.zero_point, self.low, self.high)

    def codes(self) -> Array:
        """All 256 codes in the order of their bits read as u8: the order of a table's entries."""
        return np.arange(256, dtype=np.uint8).view(self.dtype)

    def dequantize(self, codes: Array) -> npt.NDArray[np.float32]:
        """DequantizeLinear: float32(code - zero point) · scale."""
        return (codes.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)

    def quantize(self, values: npt.NDArray[np.float32]) -> Array:
        """QuantizeLinear: saturate(round_half_even(value / scale) + zero point); NaN gives the zero point."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.asarray(values.astype(np.float32, copy=False) / np.float32(self.scale))
        np.rint(scaled, out=scaled)
        scaled[np.isnan(scaled)] = 0
        np.clip(scaled, self.low - self.zero_point, self.high - self.zero_point, out=scaled)
        scaled += self.zero_point  # a whole number still, which float32 holds
        return scaled.astype(self.dtype)

    def requantization(self, y: Quantization) -> npt.NDArray[np.uint8]:
        """The table of 256 bytes that turns codes of this quantization into codes of y: Dequantize, then Quantize."""
        return y.quantize(self.dequantize(self.codes())).view(np.uint8)
