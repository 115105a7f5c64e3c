"""Epilogues of a product: the forms in which a register tile writes its int32 sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.memory import Array


def is_signed(dtype: npt.DTypeLike) -> bool:
    """Whether codes of this type are s8 (the others are u8)."""
    return np.dtype(dtype) == np.int8


def code_range(dtype: npt.DTypeLike) -> tuple[int, int]:
    """The least and the greatest code of a type."""
    return (-128, 127) if is_signed(dtype) else (0, 255)


@dataclass(frozen=True, slots=True)
class AddedTensor:
    """A quantized tensor of the output's shape, added as DequantizeLinear, Add, QuantizeLinear would.

    The product is first requantized to `inner_zero_point` and `inner_dtype` at `inner_scale`, then
    y = quantize((q − inner_zero_point) · inner_scale + (r − zero_point) · scale, y_scale), every operation in float32.
    """

    inner_scale: float
    inner_zero_point: int
    inner_dtype: npt.DTypeLike
    scale: float
    zero_point: int
    dtype: npt.DTypeLike
    y_scale: float


@dataclass(frozen=True, slots=True)
class Requantize:
    """8-bit output as QLinearConv and QLinearMatMul define it.

    y = clamp(round_half_even(float32(acc) · scale) + zero_point, low, high): `scale` is float32 per channel, which
    the caller computes as float32(x_scale · w_scale) / y_scale in float32. `low` and `high` default to the limits of
    the dtype; Relu and Clip narrow them. `table`, 256 bytes indexed by y's bits, is a function of y such as a
    quantized Sigmoid.
    """

    scale: Array
    zero_point: int
    dtype: npt.DTypeLike
    low: int | None = None
    high: int | None = None
    residual: AddedTensor | None = None
    table: Array | None = None

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest output."""
        least, greatest = code_range(self.dtype)
        low = least if self.low is None else max(least, int(self.low))
        return low, greatest if self.high is None else min(greatest, int(self.high))


@dataclass(frozen=True, slots=True)
class FloatOutput:
    """float32 output: y = clamp(float32(acc) · (row scale · scale) + bias, low, high).

    With `dynamic`, buffers row_scales (f32) and row_zeros (i32, of the activations as stored) give each row its scale
    and zero point; otherwise the row scale is 1 and the zero point was given at preparation.
    """

    scale: Array
    bias: Array | None = None
    low: float = -np.inf
    high: float = np.inf
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Accumulate:
    """The int32 sums themselves."""


Epilogue = Requantize | FloatOutput | Accumulate
