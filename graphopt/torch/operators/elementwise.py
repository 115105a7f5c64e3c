"""Operators of one operand that compute each element from one element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..arrays import dtype_of


def _plain(function: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda call, x: function(x)


def cast(call: Any, x: Any) -> Any:
    """x in another element type; floats to integers by truncation."""
    return x.to(dtype_of(call.attr("to")))


def is_inf(call: Any, x: Any) -> Any:
    """Whether elements are infinite, of the requested signs."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.attr("detect_positive", 1):
        found = found | torch.isposinf(x)
    if call.attr("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found


def clip(call: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    """min(max(x, low), high)"""
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def shrink(call: Any, x: Any) -> Any:
    """x + b for x < −λ, x − b for x > λ, else 0"""
    bias, width = call.attr("bias", 0.0), call.attr("lambd", 0.5)
    return torch.where(x < -width, x + bias, torch.where(x > width, x - bias, torch.zeros_like(x)))


def _negative_part(x: Any) -> Any:
    """e^min(x, 0) − 1: without the minimum, a large x gives a non-finite gradient even where the branch is not taken"""
    return torch.expm1(torch.clamp(x, max=0))


def prelu(call: Any, x: Any, slope: Any) -> Any:
    """x for x ≥ 0, else slope · x"""
    return torch.where(x < 0, x * slope, x)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(torch.abs), "Neg": _plain(torch.neg), "Exp": _plain(torch.exp), "Log": _plain(torch.log),
    "Sqrt": _plain(torch.sqrt), "Reciprocal": _plain(torch.reciprocal), "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil), "Round": _plain(torch.round), "Sign": _plain(torch.sign), "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos), "Tan": _plain(torch.tan), "Asin": _plain(torch.asin), "Acos": _plain(torch.acos),
    "Atan": _plain(torch.atan), "Sinh": _plain(torch.sinh), "Cosh": _plain(torch.cosh), "Asinh": _plain(torch.asinh),
    "Acosh": _plain(torch.acosh), "Atanh": _plain(torch.atanh), "Erf": _plain(torch.erf), "Tanh": _plain(torch.tanh),
    "Sigmoid": _plain(torch.sigmoid), "Relu": _plain(torch.relu), "Softsign": _plain(F.softsign),
    "Softplus": _plain(lambda x: torch.logaddexp(x, torch.zeros_like(x))), "Not": _plain(torch.logical_not),
    "BitwiseNot": _plain(torch.bitwise_not), "IsNaN": _plain(torch.isnan), "IsInf": is_inf,
    "Identity": _plain(lambda x: x), "HardSwish": _plain(F.hardswish), "Mish": _plain(F.mish), "Clip": clip,
    "Cast": cast, "CastLike": lambda call, x, like: x.to(like.dtype), "Shrink": shrink, "PRelu": prelu,
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.attr("alpha", 0.01)),
    "Elu": lambda call, x: torch.where(x < 0, call.attr("alpha", 1.0) * _negative_part(x), x),
    "Selu": lambda call, x: call.attr("gamma", 1.0507) * torch.where(
        x > 0, x, call.attr("alpha", 1.67326) * _negative_part(x)
    ),
    "Celu": lambda call, x: F.celu(x, call.attr("alpha", 1.0)),
    "HardSigmoid": lambda call, x: torch.clamp(x * call.attr("alpha", 0.2) + call.attr("beta", 0.5), 0, 1),
    "ThresholdedRelu": lambda call, x: torch.where(x > call.attr("alpha", 1.0), x, torch.zeros_like(x)),
    "Gelu": lambda call, x: F.gelu(x, approximate=call.attr("approximate", "none")),
    "Swish": lambda call, x: x * torch.sigmoid(x * call.attr("alpha", 1.0)),
    "Dropout": lambda call, x, ratio=None, training=None: (x, torch.ones_like(x, dtype=torch.bool))[: call.outputs],
}  # fmt: skip
