"""Gelu (Hendrycks and Gimpel 2016) in the spellings of exporters: by erf, by tanh, by sigmoid.

gelu(x) = x/2 (1 + erf(x / sqrt 2))
gelu(x) ~ x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
gelu(x) ~ x sigmoid(1.702 x)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...rewrite import Builder, OpPattern, any_value, constant, op, rule, same, spellings
from ..fold.channels import elementwise
from .guards import close, number

_ERF = op.Erf(op("Div", "Mul")(any_value("x"), constant("c"), name="scaled"))
_SLOPE, _CUBIC = 0.7978845608, 0.044715


def _halved(inner: OpPattern) -> Iterator[OpPattern]:
    """The ways to write x/2 (1 + inner)."""
    half, x = constant(equals=0.5), same("x")
    whole = op.Add(inner, constant(equals=1.0))
    yield op.Mul(op.Mul(x, whole), half, name="result")
    yield op.Mul(op.Mul(x, half), whole, name="result")
    yield op.Mul(x, op.Mul(whole, half), name="result")
    yield op.Mul(x, op.Add(op.Mul(inner, half), half), name="result")
    yield op.Div(op.Mul(x, whole), constant(equals=2.0), name="result")


def _tanhs() -> Iterator[OpPattern]:
    """The ways to write tanh(sqrt(2/pi) (x + 0.044715 x^3))."""
    x, slope, cubic = any_value("x"), constant(equals=_SLOPE, rtol=1e-4), constant(equals=_CUBIC, rtol=1e-4)
    square, one = op("Mul")(x, x), constant(equals=1.0)
    for cube in (op.Pow(x, constant(equals=3.0)), op.Mul(square, x), op.Mul(x, op.Pow(x, constant(equals=2.0)))):
        yield op.Tanh(op.Mul(op.Add(x, op.Mul(cube, cubic)), slope))
    yield op.Tanh(op.Mul(op.Add(x, op.Mul(x, op.Mul(x, op.Mul(x, cubic)))), slope))
    for inner in (op.Mul(square, cubic), op.Mul(op.Mul(x, cubic), x)):
        yield op.Tanh(op.Mul(op.Mul(x, slope), op.Add(inner, one)))
        yield op.Tanh(op.Mul(x, op.Mul(op.Add(inner, one), slope)))


def gelu(build: Builder, x: Value, approximate: str = "none") -> Value:
    """Gelu of ONNX from opset 20, of onnxruntime below; Declined where the target has neither."""
    if build.opset >= 20:
        return build.Gelu(x, approximate=approximate)
    if approximate != "tanh":
        return build.node("com.microsoft::Gelu", x)
    if not isinstance(x.type, TensorType) or not x.type.rank:
        raise Declined("FastGelu takes no scalars")
    return build.node("com.microsoft::FastGelu", x)


@spellings(*_halved(_ERF), min_opset=7)
def fuse_gelu(build: Builder, x: Value, c: Array, scaled: Node, result: Node) -> Value:
    """x/2 (1 + erf(x / sqrt 2)) = gelu(x)"""
    elementwise(x, result)
    if scaled.op == "Div" and scaled.inputs[0] is not x:
        raise Declined("the constant is divided")
    factor = number(c, 1.0)
    if not close(1 / factor if scaled.op == "Div" else factor, math.sqrt(0.5)):
        raise Declined("erf is not of x / sqrt 2")
    return gelu(build, x)


@spellings(*(whole for inner in _tanhs() for whole in _halved(inner)), min_opset=7)
def fuse_tanh_gelu(build: Builder, x: Value, result: Node) -> Value:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = gelu(x), by its approximation"""
    elementwise(x, result)
    return gelu(build, x, "tanh")


@rule(op.Mul(any_value("x"), op.Sigmoid(same("x"))), min_opset=7)
def fuse_swish(build: Builder, x: Value) -> Value:
    """x sigmoid(x) = swish(x) (Ramachandran et al. 2017), Silu in torch"""
    return _swish(build, x, 1.0)


@rule(op.Mul(any_value("x"), op.Sigmoid(op.Mul(same("x"), constant("a"))), name="result"), min_opset=7)
def fuse_scaled_swish(build: Builder, x: Value, a: Array, result: Node) -> Value:
    """x sigmoid(a x) = swish_a(x); with a = 1.702 an approximation of gelu"""
    elementwise(x, result)
    return _swish(build, x, number(a, 1.0))


def _swish(build: Builder, x: Value, alpha: float) -> Value:
    """QuickGelu of onnxruntime where the target has it, which is faster than Swish of opset 24."""
    if build.context.target == "onnxruntime":
        return build.node("com.microsoft::QuickGelu", x, alpha=alpha)
    return build.Swish(x, alpha=alpha)
