"""Piecewise linear activations, HardSigmoid, HardSwish, LeakyRelu, PRelu, Clip; Mish and Sigmoid from arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Declined
from ...ir import Array, DType, Node, Value
from ...ops import attr
from ...rewrite import Builder, OpPattern, any_value, constant, op, rule, same, spellings
from ..fold.channels import elementwise, floating
from .guards import clip, clip_limits, close, factor, number

_SHIFTED = op.Add(any_value("x"), constant("a"))
_CLIPPED = op.Clip(_SHIFTED, constant("low", optional=True), constant("high", optional=True), name="clip")


def _line(clip: Node, a: Array, low: Array | None, high: Array | None, c: float) -> tuple[float, float]:
    """alpha and beta with clip(x + a, low, high) c = hard_sigmoid(x) = clip(alpha x + beta, 0, 1)."""
    bottom, top = clip_limits(clip, low, high)
    if bottom != 0 or not close(top * c, 1.0):
        raise Declined("the line does not go from 0 to 1")
    return c, number(a, 0.0) * c


@rule(op("Mul", "Div")(_CLIPPED, constant("c"), name="result"), min_opset=7)
def fuse_hard_sigmoid(
    build: Builder, x: Value, a: Array, low: Array | None, high: Array | None, c: Array, clip: Node, result: Node
) -> Value:
    """clip(x + a, 0, 1/c) c = hard_sigmoid(x), with alpha = c and beta = a c"""
    elementwise(x, result)
    alpha, beta = _line(clip, a, low, high, factor(result, c))
    return build.HardSigmoid(x, alpha=alpha, beta=beta)


@rule(op("Mul", "Div")(op.Mul(same("x"), _CLIPPED), constant("c"), name="result"), min_opset=7)
def fuse_hard_gate(
    build: Builder, x: Value, a: Array, low: Array | None, high: Array | None, c: Array, clip: Node, result: Node
) -> Value:
    """x clip(x + a, 0, 1/c) c = x hard_sigmoid(x), with alpha = c and beta = a c

    The product overflows above max c, where the gate does not: 1.1e4 in half precision, 5.7e37 in single, for c = 1/6.
    """
    type = elementwise(x, result)
    alpha, beta = _line(clip, a, low, high, factor(result, c))
    if type.dtype is DType.FLOAT16 and alpha < 1:
        raise Declined("the product overflows in half precision where the gate does not")
    return build.Mul(x, build.HardSigmoid(x, alpha=alpha, beta=beta))


@rule(op.Mul(any_value("x"), op.HardSigmoid(same("x"), name="gate")), min_opset=14)
def fuse_hard_swish(build: Builder, x: Value, gate: Node) -> Value:
    """x hard_sigmoid(x) = hard_swish(x), for alpha = 1/6 and beta = 1/2 (Howard et al. 2019)"""
    if not close(float(attr(gate, "alpha", 0.2)), 1 / 6) or not close(float(attr(gate, "beta", 0.5)), 0.5):
        raise Declined("not the line of HardSwish")
    return build.HardSwish(x)


@rule(op.Mul(any_value("x"), op.Tanh(op.Softplus(same("x")))), min_opset=18)
def fuse_mish(build: Builder, x: Value) -> Value:
    """x tanh(softplus(x)) = mish(x) (Misra 2019)"""
    return build.Mish(x)


def _negated_exp() -> OpPattern:
    return op.Add(op.Exp(op.Neg(any_value("x"))), constant(equals=1.0))


@spellings(
    op.Div(constant(equals=1.0), _negated_exp(), name="result"), op.Reciprocal(_negated_exp(), name="result"),
    min_opset=7,
)  # fmt: skip
def fuse_sigmoid(build: Builder, x: Value, result: Node) -> Value:
    """1 / (1 + exp(-x)) = sigmoid(x)"""
    elementwise(x, result)
    return build.Sigmoid(x)


def _leaky() -> Iterator[OpPattern]:
    x, falling = any_value("x"), op.Mul(same("x"), constant("slope"))
    yield op.Max(x, falling, name="result")
    yield op.Where(op("Greater", "GreaterOrEqual")(x, constant(equals=0.0)), x, falling, name="result")
    yield op.Where(op("Less", "LessOrEqual")(x, constant(equals=0.0)), falling, x, name="result")


@spellings(*_leaky(), min_opset=9)
def fuse_leaky_relu(build: Builder, x: Value, slope: Array, result: Node) -> Value:
    """max(x, a x) = x where x > 0, else a x = leaky_relu(x), for 0 < a <= 1 (any a where it is a choice)"""
    elementwise(x, result)
    alpha = number(slope, 0.0)
    if result.op == "Max" and not 0 < alpha <= 1:
        raise Declined("the maximum is not the line of LeakyRelu")
    return build.LeakyRelu(x, alpha=alpha)


def _differences() -> Iterator[OpPattern]:
    rising, falling = op.Relu(any_value("x")), op.Relu(op.Neg(same("x")))
    yield op.Add(rising, op.Mul(constant("slope"), op.Neg(falling)), name="result")
    yield op.Sub(rising, op.Mul(constant("slope"), falling), name="result")


@spellings(*_differences(), min_opset=9)
def fuse_leaky_difference(build: Builder, x: Value, slope: Array, result: Node) -> Value:
    """max(x, 0) - a max(-x, 0) = leaky_relu(x), for one number a"""
    elementwise(x, result)
    return build.LeakyRelu(x, alpha=number(slope, 0.0))


@spellings(*_differences(), min_opset=9)
def fuse_prelu(build: Builder, x: Value, slope: Array, result: Node) -> Value:
    """max(x, 0) - a max(-x, 0) = prelu(x, a)"""
    type = elementwise(x, result)
    shape = type.shape or ()
    if slope.dtype != type.dtype.numpy or slope.ndim > len(shape):
        raise Declined("the slope does not broadcast to x")
    if any(s != 1 and s != d for s, d in zip(slope.shape, shape[len(shape) - slope.ndim :])):
        raise Declined("the slope does not broadcast to x")
    return build.PRelu(x, slope)


_LIMITED = op.Clip(op.Relu(any_value("x")), constant("low", optional=True), constant("high", optional=True),
                   name="clip")  # fmt: skip


@rule(_LIMITED, min_opset=6)
def clip_after_relu(build: Builder, x: Value, low: Array | None, high: Array | None, clip: Node) -> Value:
    """clip(max(x, 0), a, b) = clip(x, max(a, 0), b), for b >= max(a, 0)"""
    return _joined(build, x, *clip_limits(clip, low, high))


@rule(op.Relu(op.Clip(any_value("x"), constant("low", optional=True), constant("high", optional=True), name="clip")),
      min_opset=6)  # fmt: skip
def relu_after_clip(build: Builder, x: Value, low: Array | None, high: Array | None, clip: Node) -> Value:
    """max(clip(x, a, b), 0) = clip(x, max(a, 0), b), for b >= max(a, 0)"""
    return _joined(build, x, *clip_limits(clip, low, high))


def _joined(build: Builder, x: Value, low: float, high: float) -> Value:
    floating(x)
    if high < max(low, 0.0):
        raise Declined("the limits do not overlap")
    return clip(build, x, max(low, 0.0), high)


@spellings(
    op.Min(op.Max(any_value("x"), constant("low")), constant("high"), name="result"),
    op.Max(op.Min(any_value("x"), constant("high")), constant("low"), name="result"),
    min_opset=8,
)
def fuse_clip(build: Builder, x: Value, low: Array, high: Array, result: Node) -> Value:
    """min(max(x, a), b) = clip(x, a, b), for a <= b"""
    return _limited(build, x, number(low, 0.0), number(high, 0.0), result)


@rule(op.Min(op.Relu(any_value("x")), constant("high"), name="result"), min_opset=8)
def fuse_relu_and_min(build: Builder, x: Value, high: Array, result: Node) -> Value:
    """min(max(x, 0), b) = clip(x, 0, b), for b >= 0"""
    return _limited(build, x, 0.0, number(high, 0.0), result)


def _limited(build: Builder, x: Value, low: float, high: float, result: Node) -> Value:
    if elementwise(x, result).dtype not in (DType.FLOAT, DType.DOUBLE):
        raise Declined("half precision may round the limits")
    if not low <= high:
        raise Declined("the limits do not overlap")
    return clip(build, x, low, high)
