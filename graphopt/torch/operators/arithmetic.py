"""Operators of several operands with numpy's broadcasting, and products."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda call, *operands: reduce(function, operands)


def _pair(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda call, a, b: function(a, b)


def div(call: Any, a: Any, b: Any) -> Any:
    """a / b, of integers towards zero"""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def modulo(call: Any, a: Any, b: Any) -> Any:
    """a mod b with the sign of b, or with `fmod` that of a"""
    return torch.fmod(a, b) if call.attr("fmod", 0) else torch.remainder(a, b)


def power(call: Any, a: Any, b: Any) -> Any:
    """a^b in the element type of a"""
    return torch.pow(a, b.to(a.dtype) if a.is_floating_point() else b).to(a.dtype)


def shift(call: Any, a: Any, b: Any) -> Any:
    """a · 2^±b"""
    return a << b if call.attr("direction") == "LEFT" else a >> b


def gemm(call: Any, a: Any, b: Any, c: Any = None) -> Any:
    """α a b + β c, a and b transposed where it says so"""
    a, b = (t.mT if call.attr(name, 0) else t for t, name in ((a, "transA"), (b, "transB")))
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    y = a @ b
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _pair(torch.add), "Sub": _pair(torch.sub), "Mul": _pair(torch.mul), "Div": div, "Pow": power,
    "Mod": modulo, "BitShift": shift, "And": _pair(torch.logical_and), "Or": _pair(torch.logical_or),
    "Xor": _pair(torch.logical_xor), "BitwiseAnd": _pair(torch.bitwise_and), "BitwiseOr": _pair(torch.bitwise_or),
    "BitwiseXor": _pair(torch.bitwise_xor), "Equal": _pair(torch.eq), "Greater": _pair(torch.gt),
    "Less": _pair(torch.lt), "GreaterOrEqual": _pair(torch.ge), "LessOrEqual": _pair(torch.le),
    "Max": _folded(torch.maximum), "Min": _folded(torch.minimum), "Sum": _folded(torch.add),
    "Mean": lambda call, *operands: reduce(torch.add, operands) / len(operands),
    "Where": lambda call, condition, a, b: torch.where(condition, a, b), "MatMul": _pair(torch.matmul), "Gemm": gemm,
    "Det": lambda call, x: torch.linalg.det(x),
    "Einsum": lambda call, *operands: torch.einsum(call.attr("equation"), *operands),
}  # fmt: skip
