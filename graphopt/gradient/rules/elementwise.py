"""Operators of one operand that compute each element from one element: dx = g · f'(x)."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..call import Call, Gradients, Rule
from ..tensor import Tensor

Derivative = Callable[[Tensor, Tensor], Tensor]


def _pointwise(equation: str, derivative: Derivative) -> Rule:
    """The rule dx = g f'(x), with f'(x) from x and y = f(x); `equation` becomes its docstring."""

    def rule(call: Call) -> Gradients:
        return {0: call.g * derivative(call.x, call.y)}

    rule.__doc__ = equation
    return rule


def _selected(condition: Tensor, like: Tensor) -> Tensor:
    """1 where a condition holds, else 0, in the element type of `like`."""
    return condition.cast(like.dtype)


def relu(call: Call) -> Gradients:
    """y = max(x, 0): dx = g [y > 0]"""
    return {0: call.g * call.y.positive()}


def leaky_relu(call: Call) -> Gradients:
    """y = x for x ≥ 0, else αx: dx = g (1 for x ≥ 0, else α)"""
    return {0: call.x.less(0).where(call.g * call.attr("alpha", 0.01), call.g)}


def thresholded_relu(call: Call) -> Gradients:
    """y = x for x > α, else 0: dx = g [x > α]"""
    return {0: call.g * _selected(call.x.greater(call.attr("alpha", 1.0)), call.x)}


def elu(call: Call) -> Gradients:
    """y = x for x ≥ 0, else α (eˣ − 1): dx = g (1 for x ≥ 0, else αeˣ)"""
    alpha = call.attr("alpha", 1.0)
    return {0: call.x.less(0).where(call.g * (call.x.Exp() * alpha), call.g)}


def selu(call: Call) -> Gradients:
    """y = γx for x > 0, else γα (eˣ − 1): dx = g γ (1 for x > 0, else αeˣ)"""
    alpha, gamma = call.attr("alpha", 1.67326), call.attr("gamma", 1.0507)
    return {0: call.g * call.x.greater(0).where(gamma, call.x.Exp() * (alpha * gamma))}


def celu(call: Call) -> Gradients:
    """y = max(0, x) + min(0, α (e^(x/α) − 1)): dx = g (1 for x ≥ 0, else e^(x/α))"""
    return {0: call.x.less(0).where(call.g * (call.x / call.attr("alpha", 1.0)).Exp(), call.g)}


def hard_sigmoid(call: Call) -> Gradients:
    """y = clip(αx + β, 0, 1): dx = g α [0 < y < 1]"""
    inside = call.y.greater(0).both(call.y.less(1))
    return {0: call.g * inside.where(call.attr("alpha", 0.2), call.x.zeros())}


def hard_swish(call: Call) -> Gradients:
    """y = x clip(x/6 + 1/2, 0, 1): dx = g (0 for x ≤ −3, 1 for x ≥ 3, else x/3 + 1/2)"""
    middle = call.x.greater(-3).both(call.x.less(3))
    ends = _selected(call.x.greater(0), call.x)
    return {0: call.g * middle.where(call.x / 3 + 0.5, ends)}


def gelu(call: Call) -> Gradients:
    """y = x Φ(x): dx = g (Φ(x) + x φ(x)); with `tanh`, y = x/2 (1 + tanh u), u = √(2/π)(x + 0.044715x³), and
    dx = g ((1 + tanh u)/2 + x/2 (1 − tanh² u) u')"""
    x = call.x
    if call.attr("approximate", "none") == "tanh":
        factor, cubic = math.sqrt(2 / math.pi), 0.044715  # as the schema of Gelu has them
        square = x * x
        t = (x * (square * cubic + 1) * factor).Tanh()
        slope = (square * (3 * cubic) + 1) * factor
        return {0: call.g * ((t + 1) * 0.5 + x * 0.5 * (1 - t * t) * slope)}
    density = (x * x * -0.5).Exp() * (1 / math.sqrt(2 * math.pi))
    return {0: call.g * (((x * math.sqrt(0.5)).Erf() + 1) * 0.5 + x * density)}


def mish(call: Call) -> Gradients:
    """y = x tanh(s), s = ln(1 + eˣ): dx = g (tanh s + x (1 − tanh² s) σ(x))"""
    t = call.x.Softplus().Tanh()
    return {0: call.g * (t + call.x * (1 - t * t) * call.x.Sigmoid())}


def swish(call: Call) -> Gradients:
    """y = x σ(αx): dx = g (σ + αx σ (1 − σ))"""
    alpha = call.attr("alpha", 1.0)
    s = (call.x * alpha).Sigmoid()
    return {0: call.g * s * (call.x * alpha * (1 - s) + 1)}


def shrink(call: Call) -> Gradients:
    """y = x + b for x < −λ, x − b for x > λ, else 0: dx = g [|x| > λ]"""
    return {0: call.g * _selected(call.x.Abs().greater(call.attr("lambd", 0.5)), call.x)}


def cast(call: Call) -> Gradients:
    """y = x in another element type: dx = g in the element type of x"""
    return {0: call.g.cast(call.x.dtype)}


def identity(call: Call) -> Gradients:
    """y = x: dx = g"""
    return {0: call.g}


def negated(call: Call) -> Gradients:
    """y = −x: dx = −g"""
    return {0: -call.g}


RULES: dict[str, Rule] = {
    "Identity": identity, "Cast": cast, "CastLike": cast, "Relu": relu, "LeakyRelu": leaky_relu, "Elu": elu,
    "ThresholdedRelu": thresholded_relu, "Selu": selu, "Celu": celu, "HardSigmoid": hard_sigmoid, "Shrink": shrink,
    "HardSwish": hard_swish, "Gelu": gelu, "com.microsoft::Gelu": gelu, "Mish": mish, "Swish": swish,
    "Sqrt": _pointwise("y = √x: dx = g / 2y", lambda x, y: 0.5 / y),
    "Exp": _pointwise("y = eˣ: dx = g y", lambda x, y: y),
    "Log": _pointwise("y = ln x: dx = g / x", lambda x, y: x.Reciprocal()),
    "Tanh": _pointwise("y = tanh x: dx = g (1 − y²)", lambda x, y: 1 - y * y),
    "Sigmoid": _pointwise("y = σ(x): dx = g y (1 − y)", lambda x, y: y * (1 - y)),
    "Softplus": _pointwise("y = ln(1 + eˣ): dx = g σ(x)", lambda x, y: x.Sigmoid()),
    "Softsign": _pointwise("y = x / (1 + |x|): dx = g / (1 + |x|)²", lambda x, y: 1 / ((x.Abs() + 1) * (x.Abs() + 1))),
    "Erf": _pointwise("y = erf x: dx = g 2/√π e^(−x²)", lambda x, y: (-(x * x)).Exp() * (2 / math.sqrt(math.pi))),
    "Abs": _pointwise("y = |x|: dx = g sign x", lambda x, y: x.Sign()),
    "Neg": negated,
    "Reciprocal": _pointwise("y = 1 / x: dx = −g y²", lambda x, y: -(y * y)),
    "Sin": _pointwise("y = sin x: dx = g cos x", lambda x, y: x.Cos()),
    "Cos": _pointwise("y = cos x: dx = −g sin x", lambda x, y: -x.Sin()),
    "Tan": _pointwise("y = tan x: dx = g (1 + y²)", lambda x, y: y * y + 1),
    "Asin": _pointwise("y = asin x: dx = g / √(1 − x²)", lambda x, y: 1 / (1 - x * x).Sqrt()),
    "Acos": _pointwise("y = acos x: dx = −g / √(1 − x²)", lambda x, y: -1 / (1 - x * x).Sqrt()),
    "Atan": _pointwise("y = atan x: dx = g / (1 + x²)", lambda x, y: 1 / (x * x + 1)),
    "Sinh": _pointwise("y = sinh x: dx = g cosh x", lambda x, y: x.Cosh()),
    "Cosh": _pointwise("y = cosh x: dx = g sinh x", lambda x, y: x.Sinh()),
    "Asinh": _pointwise("y = asinh x: dx = g / √(x² + 1)", lambda x, y: 1 / (x * x + 1).Sqrt()),
    "Acosh": _pointwise("y = acosh x: dx = g / √(x² − 1)", lambda x, y: 1 / (x * x - 1).Sqrt()),
    "Atanh": _pointwise("y = atanh x: dx = g / (1 − x²)", lambda x, y: 1 / (1 - x * x)),
}  # fmt: skip
