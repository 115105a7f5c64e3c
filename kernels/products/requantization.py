"""8-bit epilogues for compiled code: words of a panel's record, and forms of the micro-kernels that read them."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.memory import Words, float_bits
from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.elementwise.proved_factors import proved_factors
from graphopt.kernels.products.epilogue import AddedTensor, Requantize, code_range, is_signed
from graphopt.kernels.tensors.quantization import Quantization


def residual_form(output: Requantize) -> str:
    """The form of `micro.rounding.add_residual`: "", u8 or s8, and "/" where the division by y's scale must stay."""
    if output.residual is None:
        return ""
    kind = "s8" if is_signed(output.residual.dtype) else "u8"
    return kind if _factors(output, output.residual) else f"{kind}/"


def code_form(output: Requantize) -> str:
    """The wide tiles' form of output: q8, with s for s8, c for limits narrower than the type's, w for large scales.

    |acc| ≤ 2³¹, so that with scales below 1 the product converts to int32; a residual's terms are codes times factors.
    """
    form = "q8s" if is_signed(output.dtype) else "q8"
    if output.limits != code_range(output.dtype):
        form += "c"
    greatest = float(np.max(output.scale, initial=0))
    other = output.residual
    if other is not None:
        greatest = 0.0 if (other.inner_scale + other.scale) / other.y_scale < 1e6 else 1.0
    return form if 0 <= greatest < 1 else f"{form}w"


def write_requantization(row: Words, output: Requantize) -> None:
    """Fill a panel's record with the output's limits, zero point and residual."""
    low, high = output.limits
    row[Panel.LOW], row[Panel.HIGH] = float_bits(low - output.zero_point), float_bits(high - output.zero_point)
    row[Panel.ZERO] = output.zero_point
    other = output.residual
    if other is None:
        return
    least, greatest = code_range(other.inner_dtype)
    row[Panel.INNER_LOW] = float_bits(least - other.inner_zero_point)
    row[Panel.INNER_HIGH] = float_bits(greatest - other.inner_zero_point)
    own, added = _factors(output, other) or (other.inner_scale, other.scale)
    row[Panel.INNER_SCALE], row[Panel.R_SCALE] = float_bits(own), float_bits(added)
    row[Panel.R_ZERO], row[Panel.Y_SCALE] = float_bits(other.zero_point), float_bits(other.y_scale)


def _factors(output: Requantize, other: AddedTensor) -> tuple[float, float] | None:
    inner = Quantization(other.inner_scale, other.inner_zero_point, is_signed(other.inner_dtype))
    added = Quantization(other.scale, other.zero_point, is_signed(other.dtype))
    y = Quantization(other.y_scale, output.zero_point, is_signed(output.dtype))
    return proved_factors("add", inner, added, y, output.limits)
