"""Preparation of functions of one float32 element: activations, square roots, reciprocals and the like."""

from __future__ import annotations

from functools import cache
from typing import Literal

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.broadcasting import TILE

FloatFunctionName = Literal[
    "sigmoid", "gated", "tanh", "exp", "erf", "sqrt", "reciprocal", "negative", "absolute", "leaky", "elu",
    "hard_swish", "number",
]  # fmt: skip
"""Names of the functions that `prepare_float_function` takes."""


@cache
def _kernel(function: FloatFunctionName) -> Kernel:
    fields = {"x": "f32*", "y": "f32*", "count": "i64", "a": "f32", "b": "f32"}
    return Kernel(f"graphopt.kernels.loops.elementwise.functions:{function}", fields)


def prepare_float_function(function: FloatFunctionName, count: int, a: float = 0.0, b: float = 0.0) -> Routine:
    """y = function(x; a, b) of float32[count].

    sigmoid: 1 / (1 + exp(−a x)). gated: x / (1 + exp(−x (a + b x²))), which is SiLU for (1, 0), QuickGelu for
    (1.702, 0) and Gelu by tanh for (2 √(2/π), 2 √(2/π) · 0.044715). tanh, exp, erf, sqrt. reciprocal 1 / x, negative
    −x, absolute |x|. leaky: x, a x below 0. elu: x, a (exp(x) − 1) below 0. hard_swish: x min(max(a x + b, 0), 1).
    number: x, a for NaN.

    sigmoid, gated, tanh, exp, erf and elu are accurate to a few units in the last place of their greatest value near x;
    the others are ONNX's float32 arithmetic.
    """
    arguments: dict[str, Argument] = {"x": Buffer("x"), "y": Buffer("y"), "count": count, "a": a, "b": b}
    return Routine((Step(_kernel(function), arguments, tiles=-(-count // TILE)),))
