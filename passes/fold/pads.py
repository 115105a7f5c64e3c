"""Zeros that Pad puts around an image become the padding of the Conv or pool that reads it."""

from __future__ import annotations

import numpy as np

from ...analysis.operands import ancestors, shape_of
from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, constant, op, rule, weight

_NOT_NEGATIVE = frozenset(("Relu", "Sigmoid", "HardSigmoid", "Abs", "Exp", "Softplus"))
"""Operators without negative results."""
_MAKES_NAN = frozenset(
    ("Acos", "Acosh", "Asin", "Atanh", "Div", "Log", "LogSoftmax", "Mod", "Pow", "Softmax", "Sqrt")
)  # fmt: skip
"""Operators that return NaN for some finite operands, or for a row that a mask shuts out by -inf."""


def _spatial(node: Node, pads: Array, rank: int | None) -> list[int]:
    """The pads of the spatial axes plus those of `node`; Declined where other axes are padded, or an axis is cut."""
    if attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Declined("the padding is chosen automatically")
    if rank is None or pads.size != 2 * rank or rank < 3:
        raise Declined("the rank is not known")
    sides = pads.reshape(2, rank)
    if sides[:, :2].any() or (sides < 0).any():
        raise Declined("the batch or the channels are padded, or something is cut")
    own = np.array(attr(node, "pads", None) or [0] * (2 * (rank - 2)), np.int64)
    return [int(v) for v in own + sides[:, 2:].reshape(-1)]


def _is_zero(fill: Array | None) -> bool:
    return fill is None or not np.any(fill)


def _rank(x: Value) -> int | None:
    shape = shape_of(x)
    return None if shape is None else len(shape)


@rule(op.Conv(op.Pad(any_value("x"), constant("pads"), constant("fill", optional=True), mode="constant", name="pad"),
              weight("w"), any_value("b", optional=True), name="conv"), min_opset=11)  # fmt: skip
def pad_into_conv(
    build: Builder, x: Value, pads: Array, fill: Array | None, w: Value, b: Value | None, conv: Node
) -> Value:
    """conv(pad(x, p), q) = conv(x, p + q), for pads of zeros"""
    if not _is_zero(fill):
        raise Declined("the pads are not zeros")
    joined = _spatial(conv, pads, _rank(x))
    return build.copy(conv, [x, w, b], pads=joined, auto_pad=None)


@rule(op.AveragePool(op.Pad(any_value("x"), constant("pads"), constant("fill", optional=True), mode="constant",
                            name="pad"), name="pool"), min_opset=11)  # fmt: skip
def pad_into_average(build: Builder, x: Value, pads: Array, fill: Array | None, pool: Node) -> Value:
    """mean(pad(x, p)) = mean(x, p), for pads of zeros that count"""
    if not _is_zero(fill):
        raise Declined("the pads are not zeros")
    joined = _pool_pads(pool, pads, x)
    _holds_window(pool, x)
    return build.copy(pool, [x], pads=joined, auto_pad=None, count_include_pad=1)


@rule(op.MaxPool(op.Pad(any_value("x"), constant("pads"), constant("fill", optional=True), mode="constant",
                        name="pad"), name="pool"), min_opset=11)  # fmt: skip
def pad_into_maximum(build: Builder, x: Value, pads: Array, fill: Array | None, pool: Node) -> Value:
    """max(pad(x, p)) = max(x, p), where no pad is above an element of x"""
    lowest = fill is not None and bool((fill <= np.finfo(np.float32).min).all()) and _is_single(x)
    above_zero = _is_zero(fill) and x.producer is not None and x.producer.op in _NOT_NEGATIVE
    if not (lowest or above_zero) or len(pool.outputs) > 1:
        raise Declined("a pad may be the largest element")
    if not lowest:
        _never_nan(x)
    return build.copy(pool, [x], pads=_pool_pads(pool, pads, x), auto_pad=None)


def _pool_pads(pool: Node, pads: Array, x: Value) -> list[int]:
    if any(attr(pool, "pads", None) or ()) or attr(pool, "ceil_mode", 0):
        raise Declined("the pool pads by itself")
    joined = _spatial(pool, pads, _rank(x))
    _inside(pool, joined)
    return joined


def _inside(pool: Node, pads: list[int]) -> None:
    """Declined unless every window reads an element of the image: onnxruntime refuses pads as large as the kernel."""
    kernel = [int(v) for v in attr(pool, "kernel_shape", ())]
    if any(d != 1 for d in attr(pool, "dilations", None) or ()):
        raise Declined("the pool has holes")
    if len(pads) != 2 * len(kernel) or any(p >= k for p, k in zip(pads, [*kernel, *kernel])):
        raise Declined("the pads are as large as the kernel")


def _holds_window(pool: Node, x: Value) -> None:
    """Declined unless the image is known to hold the window: else onnxruntime divides by another count."""
    sizes, kernel = (shape_of(x) or ())[2:], attr(pool, "kernel_shape", ())
    if not all(isinstance(size, int) and size >= k for size, k in zip(sizes, kernel)):
        raise Declined("the image may be smaller than the window")


def _never_nan(x: Value) -> None:
    """Declined where an operator upstream may return NaN: onnxruntime's MaxPool prefers the zeros of pads to NaN."""
    for node in ancestors([x]):
        divisor = node.input(1) if node.op == "Div" else None
        if node.op in _MAKES_NAN and not (divisor and divisor.constant and divisor.constant.array().all()):
            raise Declined(f"{node.op} before the Pad may return NaN, which MaxPool passes over for a pad")


def _is_single(x: Value) -> bool:
    return isinstance(x.type, TensorType) and x.type.dtype is DType.FLOAT


fold_pads = rule_pass("fold-pads", pad_into_conv, pad_into_average, pad_into_maximum, doc=__doc__)
