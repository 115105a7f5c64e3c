"""Activations, scales and transpositions that move into onnxruntime's own operators for products.

FusedConv, FusedGemm and FusedMatMul of com.microsoft, as the CPU provider implements them.
"""

from __future__ import annotations

from typing import Any

from ....errors import Declined
from ....ir import Array, DType, Node, TensorType, Value
from ....ops import attr
from ....rewrite import Builder, OpPattern, any_value, constant, op, rule
from ..guards import clip_limits, factor

ONNXRUNTIME = ("onnxruntime",)
_LOWEST, _HIGHEST = -3.4028234663852886e38, 3.4028234663852886e38


def _single(*values: Value | None) -> None:
    for value in values:
        if value is not None and (not isinstance(value.type, TensorType) or value.type.dtype is not DType.FLOAT):
            raise Declined("not in single precision")


def _activation(node: Node, low: Array | None, high: Array | None) -> dict[str, Any]:
    """The attributes by which com.microsoft operators name an activation: its name and its parameters, in order."""
    if node.op == "Clip":
        bottom, top = clip_limits(node, low, high)
        return {"activation": "Clip", "activation_params": (max(bottom, _LOWEST), min(top, _HIGHEST))}
    if node.op == "LeakyRelu":
        return {"activation": node.op, "activation_params": (float(attr(node, "alpha", 0.01)),)}
    if node.op == "HardSigmoid":
        line = (float(attr(node, "alpha", 0.2)), float(attr(node, "beta", 0.5)))
        return {"activation": node.op, "activation_params": line}
    return {"activation": node.op}


def _conv() -> OpPattern:
    return op.Conv(any_value("x"), any_value("w"), any_value("b", optional=True), name="conv")


@rule(op("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")(_conv(), name="end"), targets=ONNXRUNTIME)
def activation_into_conv(build: Builder, x: Value, w: Value, b: Value | None, conv: Node, end: Node) -> Value:
    """f(conv(x)) = fused_conv(x; f)"""
    return _fused_conv(build, x, w, b, conv, _activation(end, None, None))


@rule(op.Clip(_conv(), constant("low", optional=True), constant("high", optional=True), name="end"),
      targets=ONNXRUNTIME)  # fmt: skip
def clip_into_conv(
    build: Builder, x: Value, w: Value, b: Value | None, low: Array | None, high: Array | None, conv: Node, end: Node
) -> Value:
    """clip(conv(x), low, high) = fused_conv(x; clip, low, high)"""
    return _fused_conv(build, x, w, b, conv, _activation(end, low, high))


def _fused_conv(build: Builder, x: Value, w: Value, b: Value | None, conv: Node, activation: dict[str, Any]) -> Value:
    _single(x, w, b)
    return build.node("com.microsoft::FusedConv", x, w, b, attrs={**conv.attrs, **activation})


@rule(
    op("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")(
        op.Gemm(any_value("x"), any_value("w"), any_value("b", optional=True), name="gemm"), name="end"
    ),
    targets=ONNXRUNTIME,
)
def activation_into_gemm(build: Builder, x: Value, w: Value, b: Value | None, gemm: Node, end: Node) -> Value:
    """f(gemm(x)) = fused_gemm(x; f)"""
    _single(x, w, b)
    if build.opset < 7:
        raise Declined("Gemm does not broadcast by itself before opset 7")
    written = _activation(end, None, None)
    numbers = dict(zip(("activation_alpha", "activation_beta"), written.get("activation_params", ())))
    return build.node(
        "com.microsoft::FusedGemm", x, w, b, attrs={**gemm.attrs, **numbers}, activation=written["activation"]
    )  # fmt: skip


def _product() -> OpPattern:
    return op("MatMul", "com.microsoft::FusedMatMul")(any_value("x"), any_value("w"), name="product")


def _fused_product(build: Builder, x: Value, w: Value, product: Node, **changed: Any) -> Value:
    _single(x, w)
    return build.node("com.microsoft::FusedMatMul", x, w, attrs={**product.attrs, **changed})


@rule(op("Mul", "Div")(_product(), constant("c"), name="result"), min_opset=9, targets=ONNXRUNTIME)
def scale_into_product(build: Builder, x: Value, w: Value, c: Array, product: Node, result: Node) -> Value:
    """(A B) c = fused_matmul(A, B; alpha = c), for one number c"""
    alpha = float(attr(product, "alpha", 1.0)) * factor(result, c)
    type = product.output.type
    if not isinstance(type, TensorType) or type.rank is None or type.rank < max(2, c.ndim):
        raise Declined("the constant may add an axis")
    return _fused_product(build, x, w, product, alpha=alpha)


def _swaps_last(transpose: Node) -> bool:
    perm = transpose.attrs.get("perm")
    if perm is None or len(perm) < 2:
        return False
    rank = len(perm)
    return tuple(perm) == (*range(rank - 2), rank - 1, rank - 2)


@rule(
    op("MatMul", "com.microsoft::FusedMatMul")(
        any_value("x"), op.Transpose(any_value("w"), name="transpose", shared=True), name="product"
    ),
    min_opset=9,
    targets=ONNXRUNTIME,
)
def transpose_into_product(build: Builder, x: Value, w: Value, transpose: Node, product: Node) -> Value:
    """A transpose(B) = fused_matmul(A, B; transB), where the last two axes are swapped"""
    if not _swaps_last(transpose) or w.constant is not None:
        raise Declined("other axes are permuted")
    return _fused_product(build, x, w, product, transB=1 - int(attr(product, "transB", 0)))


@rule(
    op("MatMul", "com.microsoft::FusedMatMul")(
        op.Transpose(any_value("x"), name="transpose", shared=True), any_value("w"), name="product"
    ),
    min_opset=9,
    targets=ONNXRUNTIME,
)
def transpose_into_first_factor(build: Builder, x: Value, w: Value, transpose: Node, product: Node) -> Value:
    """transpose(A) B = fused_matmul(A, B; transA), where the last two axes are swapped"""
    if not _swaps_last(transpose):
        raise Declined("other axes are permuted")
    return _fused_product(build, x, w, product, transA=1 - int(attr(product, "transA", 0)))
