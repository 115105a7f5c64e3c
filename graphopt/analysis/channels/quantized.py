"""Integer layers: a channel is removed with its scale and zero point."""

from __future__ import annotations

from ...errors import Declined
from ...ir import Node
from ...ops import attr
from .couplings import RANGE, WeightedLayer
from .elementwise import where
from .linear import by_output, convolution, product, reads, weight_of
from .tracker import Tracker, transfer


@transfer("DynamicQuantizeLinear")
def dynamic(t: Tracker, node: Node) -> None:
    """The scale depends on the range of the whole tensor, which may shrink with removal."""
    axes = t.axes(node.inputs[0])
    for ids in axes:
        t.approximates(ids, RANGE)
    t.set(node.outputs[0], axes)


@transfer("ConvInteger")
def conv_integer(t: Tracker, node: Node) -> None:
    """x, w, x_zero_point, w_zero_point"""
    _one_number(t, node, 2)
    convolution(t, node, weight_of(t, node))
    by_output(t, node, 3, t.axes(node.output)[1])


@transfer("QLinearConv")
def qlinear_conv(t: Tracker, node: Node) -> None:
    """x, its scale and zero point, w, its scale and zero point, those of y, B"""
    _one_number(t, node, 1, 2, 6, 7)
    convolution(t, node, weight_of(t, node, 3))
    for slot in (4, 5, 8):
        by_output(t, node, slot, t.axes(node.output)[1])


@transfer("MatMulInteger")
def matmul_integer(t: Tracker, node: Node) -> None:
    """A, B, a_zero_point, b_zero_point"""
    _product(t, node, 1, rows=(2,), columns=(3,))


@transfer("QLinearMatMul")
def qlinear_matmul(t: Tracker, node: Node) -> None:
    """a, its scale and zero point, b, its scale and zero point, those of y"""
    _product(t, node, 3, rows=(1, 2, 6, 7), columns=(4, 5))


@transfer("com.microsoft::MatMulIntegerToFloat")
def matmul_to_float(t: Tracker, node: Node) -> None:
    """A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias"""
    _product(t, node, 1, rows=(2, 4), columns=(3, 5, 6))


@transfer("com.microsoft::DynamicQuantizeMatMul")
def dynamic_matmul(t: Tracker, node: Node) -> None:
    """A, quantized dynamically, B, b_scale, b_zero_point, bias"""
    for ids in t.axes(node.inputs[0]):
        t.approximates(ids, RANGE)
    _product(t, node, 1, rows=(), columns=(2, 3, 4))


@transfer("com.microsoft::QGemm")
def qgemm(t: Tracker, node: Node) -> None:
    """A, its scale and zero point, B, its scale and zero point, C, those of y"""
    w = weight_of(t, node, 3)
    if attr(node, "transA", 0):
        raise Declined("its data are transposed")
    _one_number(t, node, 1, 2, 7, 8)
    data, weight = t.axes(node.inputs[0]), t.axes(w)
    out_axis, in_axis = (0, 1) if attr(node, "transB", 0) else (1, 0)
    t.set(node.output, (data[0], weight[out_axis]))
    inputs = reads(t, node, 0, 1, data[1], weight[in_axis])
    t.layer(WeightedLayer(node, w, "dense", 1, out_axis, in_axis, weight[out_axis], inputs))
    for slot in (4, 5, 6):
        by_output(t, node, slot, weight[out_axis])


def _product(t: Tracker, node: Node, second: int, rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    """Scales and zero points of the left side are per tensor; those of the right side may be per column."""
    _one_number(t, node, *rows)
    right = node.inputs[second]
    if right is None or not t.is_static(right):
        _one_number(t, node, *columns)
    product(t, node, 0, second)
    for slot in columns:
        by_output(t, node, slot, t.axes(node.output)[-1])


def _one_number(t: Tracker, node: Node, *slots: int) -> None:
    for slot in slots:
        value = node.input(slot)
        if value is not None and any(size != 1 for size in t.sizes(value)):
            raise Declined(f"{where(node)} has a scale or zero point for each row")
