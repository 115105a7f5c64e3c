"""Softmax and LogSoftmax from their arithmetic, where the largest element is taken off first."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Declined
from ...ir import Node, Value
from ...rewrite import Builder, OpPattern, any_value, constant, op, spellings
from ..fold.channels import elementwise
from .guards import same_axes

_LARGEST = op.ReduceMax(any_value("x"), constant("max_axes", optional=True), name="largest", shared=True)
_CENTRED = op.Sub(any_value("x"), _LARGEST, name="centred")


def _total(x: OpPattern) -> OpPattern:
    return op.ReduceSum(x, constant("sum_axes", optional=True), name="total")


def _softmaxes() -> Iterator[OpPattern]:
    exp = op.Exp(_CENTRED)
    yield op.Div(exp, _total(exp), name="result")
    yield op.Mul(exp, op.Reciprocal(_total(exp)), name="result")


def _axis(x: Value, largest: Node, total: Node, result: Node) -> int:
    axes = same_axes(len(elementwise(x, result).shape or ()), largest, total)
    if len(axes) != 1:
        raise Declined("not over one axis")
    return axes[0]


@spellings(*_softmaxes(), min_opset=13)
def fuse_softmax(build: Builder, x: Value, largest: Node, total: Node, result: Node) -> Value:
    """exp(x - max x) / sum(exp(x - max x)) = softmax(x)"""
    return build.Softmax(x, axis=_axis(x, largest, total, result))


@spellings(op.Sub(_CENTRED, op.Log(_total(op.Exp(_CENTRED))), name="result"), min_opset=13)
def fuse_log_softmax(build: Builder, x: Value, largest: Node, total: Node, result: Node) -> Value:
    """(x - max x) - log(sum(exp(x - max x))) = log_softmax(x)"""
    return build.LogSoftmax(x, axis=_axis(x, largest, total, result))
