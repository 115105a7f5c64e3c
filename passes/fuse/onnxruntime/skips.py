"""Sums before norms and activations: onnxruntime's fusions of them are used where faster, and avoided where slower.

SkipSimplifiedLayerNormalization is not written: rows of 576 and 2,048 numbers, one to 128 of them, take 1.1 to 2.4
times as long in it as in Add and RMSNormalization (onnxruntime 1.32, one thread, interleaved).
"""

from __future__ import annotations

from ....errors import Declined
from ....ir import DType, Node, TensorType, Value
from ....ops import attr
from ....rewrite import Builder, OpPattern, any_value, op, rule
from ...fold.channels import floating
from .epilogues import ONNXRUNTIME


def _vector(value: Value, size: object) -> bool:
    return isinstance(value.type, TensorType) and value.type.shape == (size,)


def _norm(total: OpPattern) -> OpPattern:
    return op.LayerNormalization(total, any_value("gamma"), any_value("beta", optional=True), name="norm")


@rule(_norm(op.Add(op.Add(any_value("x"), any_value("b")), any_value("skip"), name="total")), min_opset=17,
      targets=ONNXRUNTIME)  # fmt: skip
def keep_sums_apart(
    build: Builder, x: Value, b: Value, skip: Value, gamma: Value, beta: Value | None, total: Node, norm: Node
) -> Value:
    """layer_norm((x + b) + skip) = layer_norm(sum(x, b, skip)), for a constant b

    onnxruntime fuses an Add before a norm into SkipLayerNormalization, seven times slower than the two: see `MEASURED`.
    """
    if b.constant is None and x.constant is not None:
        x, b = b, x
    whole = total.output.type
    if b.constant is None or not isinstance(whole, TensorType) or x.type != whole:
        raise Declined("not a bias on a value of the shape of the sum")
    return build.copy(norm, [build.Sum(x, b, skip), gamma, beta])


@rule(_norm(op.Add(any_value("x"), any_value("skip"))), min_opset=17, targets=ONNXRUNTIME)
def keep_sum_apart(build: Builder, x: Value, skip: Value, gamma: Value, beta: Value | None, norm: Node) -> Value:
    """layer_norm(x + skip) = layer_norm(sum(x, skip)), which onnxruntime leaves as they are"""
    return build.copy(norm, [build.Sum(x, skip), gamma, beta])


def _check_bias(x: Value, b: Value) -> None:
    """Declined unless b is float32, one number for each size of the last axis of x."""
    type = floating(x)
    if type.dtype is not DType.FLOAT or not type.shape or not _vector(b, type.shape[-1]):
        raise Declined("the bias is not one number a column")


@rule(op("com.microsoft::Gelu", "Gelu")(op.Add(any_value("x"), any_value("b")), name="gelu"), targets=ONNXRUNTIME)
def bias_into_gelu(build: Builder, x: Value, b: Value, gelu: Node) -> Value:
    """gelu(x + b) = bias_gelu(x, b), for one number a column"""
    _check_bias(x, b)
    if attr(gelu, "approximate", "none") != "none":
        raise Declined("not the exact Gelu")
    return build.node("com.microsoft::BiasGelu", x, b)


@rule(op("com.microsoft::FastGelu", "Gelu")(op.Add(any_value("x"), any_value("b")), name="gelu"), targets=ONNXRUNTIME)
def bias_into_fast_gelu(build: Builder, x: Value, b: Value, gelu: Node) -> Value:
    """fast_gelu(x + b) = fast_gelu(x, b), for one number a column"""
    _check_bias(x, b)
    if attr(gelu, "approximate", "tanh") != "tanh":
        raise Declined("not the approximate Gelu")
    return build.node("com.microsoft::FastGelu", x, b)
