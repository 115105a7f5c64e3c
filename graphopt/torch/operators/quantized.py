"""Quantization with straight-through gradients: where x needs a gradient, codes are integers stored as floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..arrays import dtype_of


def _factor(call: Any, x: Any, vector: Any) -> Any:
    """A scale or zero point as a factor of x: of the tensor, of each index along an axis, or of each block of these."""
    axis, block = int(call.attr("axis", 1)), int(call.attr("block_size", 0))
    if block:
        return vector.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if vector.dim() == 0 or vector.numel() == 1:
        return vector.reshape([])
    return vector.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


def quantize(call: Any, x: Any, scale: Any, zero: Any = None) -> Any:
    """clip(round(x / s) + z)"""
    number = call.attr("output_dtype", 0)
    kind = zero.dtype if zero is not None else dtype_of(number) if number else torch.uint8
    limits = torch.iinfo(kind)
    ratio = x / _factor(call, x, scale).to(x.dtype)
    rounded = ratio + (torch.round(ratio) - ratio).detach() if ratio.requires_grad else torch.round(ratio)
    codes = rounded if zero is None else rounded + _factor(call, x, zero).to(rounded.dtype)
    codes = codes.clamp(limits.min, limits.max)
    return codes if codes.requires_grad else codes.to(kind)


def dequantize(call: Any, q: Any, scale: Any, zero: Any = None) -> Any:
    """s (q − z)"""
    codes = q.to(scale.dtype)
    if zero is not None:
        codes = codes - _factor(call, q, zero).to(scale.dtype)
    return codes * _factor(call, q, scale)


def dynamic_quantize(call: Any, x: Any) -> Any:
    """Codes u8 with the scale and zero point of this tensor's range"""
    low, high = torch.clamp(x.min(), max=0), torch.clamp(x.max(), min=0)
    scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255)
    zero = torch.round(torch.clamp(-low / scale, 0, 255))
    codes = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)


def matmul_integer(call: Any, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """(a − zₐ) (b − z_b) in i32"""
    a, b = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        a = a - (a_zero.to(torch.int32).unsqueeze(-1) if a_zero.dim() else a_zero.to(torch.int32))
    if b_zero is not None:
        b = b - b_zero.to(torch.int32)
    return torch.matmul(a.double(), b.double()).round().to(torch.int32)  # exact: sums stay below 2⁵³


OPERATORS: dict[str, Callable[..., Any]] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "DynamicQuantizeLinear": dynamic_quantize,
    "MatMulInteger": matmul_integer,
}  # fmt: skip
