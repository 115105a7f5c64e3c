"""Match attention (Vaswani et al. 2017) around a Softmax, softmax(scale q kT + bias) v, in the forms of exporters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....errors import Declined
from ....ir import DType, Node, TensorType, Value
from ....ops import attr

_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(scale q kT + bias) v; q f32[B,H,S,D], keys k f32[B,H,D,L] (transposed), v f32[B,H,L,E].

    out: the result of the last product, f32[B,H,S,E]. allowed: a mask, bool[B,1,S,L], where a row may be all False and
    then gives zeros; the bias is -inf where it is False.
    """

    q: Value
    k: Value
    v: Value
    scale: float
    bias: Value | None
    out: Value
    allowed: Value | None = None


def read_attention(softmax: Node) -> Attention:
    """The attention around a Softmax over its last axis; Declined where there is none, or a part has other users."""
    shape = dims_of(softmax.output)
    if len(shape) != 4 or int(attr(softmax, "axis", -1)) not in (-1, 3):
        raise Declined("the softmax is not over the last of four axes")
    product = _sole_user(_without_guard(softmax))
    if product.op != "MatMul" or product.inputs[0] is None or product.inputs[1] is None:
        raise Declined("the weights are not multiplied with values")
    weights, v = product.inputs
    if weights is None or v is None or v is weights or (weights.producer not in (softmax, _guard_of(softmax))):
        raise Declined("the weights are the second factor")
    scores, bias = _split_bias(_input(softmax, 0))
    scores, scale = _without_scale(scores)
    inner = scores.producer
    if inner is None or inner.op != "MatMul" or not scores.has_one_use:
        raise Declined("the scores are not a product")
    q, left = _without_scale(_input(inner, 0))
    k, right = _without_scale(_input(inner, 1))
    dtypes = {x.type.dtype if isinstance(x.type, TensorType) else None for x in (q, k, v)}
    if dtypes not in ({DType.FLOAT}, {DType.FLOAT16}):
        raise Declined("not in single or half precision")
    allowed = None
    if _guard_of(softmax) is not None and not _is_bounded(bias):
        allowed = _mask_of(bias)
    return Attention(q, k, v, scale * left * right, bias, product.output, allowed)


def _mask_of(bias: Value | None) -> Value:
    """The mask of where(mask, 0, -inf). It may mask a whole row, whose NaN the guard turns into zeros."""
    node = None if bias is None else bias.producer
    kept, gone = (None, None) if node is None or node.op != "Where" else (node.constant(1), node.constant(2))
    if node is None or node.inputs[0] is None or kept is None or gone is None or kept.size != 1 or gone.size != 1:
        raise Declined("a row may be masked altogether, which the guard against NaN turns into zeros")
    if kept.array().any() or not np.isneginf(gone.array()).all() or dims_of(node.inputs[0]) != dims_of(node.output):
        raise Declined("the mask is not 0 and -inf")
    return node.inputs[0]


def dims_of(value: Value) -> tuple[int | str | None, ...]:
    """The sizes of a tensor; empty where even the rank is unknown."""
    return (value.type.shape or ()) if isinstance(value.type, TensorType) else ()


def _input(node: Node, slot: int) -> Value:
    value = node.input(slot)
    if value is None:
        raise Declined(f"there is no operand {slot}", node)
    return value


def _sole_user(value: Value) -> Node:
    users = value.users
    if len(users) != 1 or not value.has_one_use:
        raise Declined("a result is used elsewhere", value.producer)
    return users[0]


def _guard_of(softmax: Node) -> Node | None:
    """Where(IsNaN(p), 0, p), which torch writes around the softmax p."""
    tests = [node for node in softmax.output.users if node.op == "IsNaN"]
    if len(tests) != 1 or len(softmax.output.uses) != 2 or not tests[0].output.has_one_use:
        return None
    guard = tests[0].output.users[0]
    zero = guard.constant(1) if guard.op == "Where" else None
    whole = guard.op == "Where" and guard.inputs[0] is tests[0].output and guard.inputs[2] is softmax.output
    return guard if whole and zero is not None and zero.size == 1 and not zero.array().any() else None


def _without_guard(softmax: Node) -> Value:
    guard = _guard_of(softmax)
    return softmax.output if guard is None else guard.output


def _split_bias(scores: Value) -> tuple[Value, Value | None]:
    node = scores.producer
    if node is None or node.op != "Add" or not scores.has_one_use:
        return scores, None
    a, b = _input(node, 0), _input(node, 1)
    if _is_product(b) and not _is_product(a):
        a, b = b, a
    if not _is_product(a):
        raise Declined("neither summand is a product")
    return a, b


def _is_product(value: Value) -> bool:
    inner, _ = _without_scale(value)
    return inner.producer is not None and inner.producer.op == "MatMul" and value.has_one_use


def _without_scale(value: Value) -> tuple[Value, float]:
    """x and c, if `value` is x c or x / (1/c) for one number c; else the value and 1."""
    node = value.producer
    if node is None or node.op not in ("Mul", "Div"):
        return value, 1.0
    for slot in (1, 0) if node.op == "Mul" else (1,):
        constant, other = node.constant(slot), node.input(1 - slot)
        if constant is None or constant.size != 1 or other is None or other.constant is not None:
            continue
        number = float(constant.array().reshape(()))
        if len(dims_of(other)) == len(dims_of(value)) and number != 0:
            return other, number if node.op == "Mul" else 1 / number
    return value, 1.0


def _is_bounded(bias: Value | None) -> bool:
    """Whether every element is finite, as with Where between finite numbers: no row of finite scores becomes NaN."""
    for _ in range(4):
        if bias is None:
            return True
        if bias.constant is not None:
            array = bias.constant.array()
            return bool((array >= _LOWEST).all() and (array <= 0).all())
        node = bias.producer
        if node is None:
            return False
        if node.op == "Where":
            return all(_is_bounded_constant(node.input(slot)) for slot in (1, 2))
        if node.op not in ("Unsqueeze", "Expand", "Reshape", "Slice", "Identity"):
            return False
        bias = node.inputs[0]
    return False


def _is_bounded_constant(value: Value | None) -> bool:
    return value is not None and value.constant is not None and _is_bounded(value)
