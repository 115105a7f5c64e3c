"""Operators of several operands with broadcasting; a cotangent is summed over the axes its operand was broadcast on."""

from __future__ import annotations

from functools import reduce

from ...errors import Declined
from ..call import Call, Gradients, Rule


def add(call: Call) -> Gradients:
    """y = a + b: da = g, db = g"""
    return {slot: call.g.reduced_to(call.input(slot)) for slot in call.wanted}


def sub(call: Call) -> Gradients:
    """y = a − b: da = g, db = −g"""
    return {s: (call.g if s == 0 else -call.g).reduced_to(call.input(s)) for s in call.wanted}


def mul(call: Call) -> Gradients:
    """y = a b: da = g b, db = g a"""
    return {slot: (call.g * call.input(1 - slot)).reduced_to(call.input(slot)) for slot in call.wanted}


def div(call: Call) -> Gradients:
    """y = a / b: da = g / b, db = −g y / b"""
    a, b = call.input(0), call.input(1)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = (call.g / b).reduced_to(a)
    if 1 in call.wanted:
        found[1] = (-(call.g * call.y / b)).reduced_to(b)
    return found


def power(call: Call) -> Gradients:
    """y = a^b: da = g b a^(b−1), db = g y ln a (0 where a ≤ 0)"""
    a, b = call.input(0), call.input(1)
    found: Gradients = {}
    if 0 in call.wanted:
        exponent = call.node.constant(1)
        if exponent is not None and exponent.size == 1 and float(exponent.array().reshape(-1)[0]) == 2:
            found[0] = (call.g * (a * 2)).reduced_to(a)
        else:
            factor = b.cast(a.dtype)
            slope = call.writer.node("Pow", a, factor - 1) * factor
            found[0] = (call.g * factor.equals(0).where(0.0, slope)).reduced_to(a)
    if 1 in call.wanted:
        positive = a.greater(0)
        log = positive.where(positive.where(a, 1.0).Log(), 0.0)
        found[1] = (call.g * call.y * log).cast(b.dtype).reduced_to(b)
    return found


def modulo(call: Call) -> Gradients:
    """y = fmod(a, b) = a − b trunc(a / b): da = g, db = −g trunc(a / b)"""
    a, b = call.input(0), call.input(1)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = call.g.reduced_to(a)
    if 1 in call.wanted:
        found[1] = (-(call.g * ((a - call.y) / b).Round())).reduced_to(b)
    return found


def total(call: Call) -> Gradients:
    """y = Σ aᵢ: daᵢ = g"""
    return add(call)


def mean(call: Call) -> Gradients:
    """y = Σ aᵢ / n: daᵢ = g / n"""
    g = call.g / len(call.node.inputs)
    return {slot: g.reduced_to(call.input(slot)) for slot in call.wanted}


def extremum(call: Call) -> Gradients:
    """y = max aᵢ (or min): daᵢ = g [aᵢ = y] / (the number of operands that equal y)"""
    hits = [call.input(slot).equals(call.y).cast(call.y.dtype) for slot in range(len(call.node.inputs))]
    share = call.g / reduce(lambda p, q: p + q, hits)
    return {slot: (share * hits[slot]).reduced_to(call.input(slot)) for slot in call.wanted}


def clip(call: Call) -> Gradients:
    """y = min(max(x, l), u): dx = g [x = y], which is g [l ≤ x ≤ u]; dl = Σ g [x < l], du = Σ g [x > u]

    x may be codes, which are compared as floats: onnxruntime compares no bytes.
    """
    x = call.x
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = call.g * x.cast(call.g.dtype).same(call.y.cast(call.g.dtype))
    for slot in call.wanted & {1, 2}:
        bound = call.input(slot)
        outside = x.less(bound) if slot == 1 else x.greater(bound)
        found[slot] = (call.g * outside.cast(x.dtype)).reduced_to(bound)
    return found


def where(call: Call) -> Gradients:
    """y = a where c, else b: da = g [c], db = g [not c]"""
    condition = call.input(0)
    found: Gradients = {}
    if 1 in call.wanted:
        found[1] = condition.where(call.g, 0.0).reduced_to(call.input(1))
    if 2 in call.wanted:
        found[2] = condition.where(0.0, call.g).reduced_to(call.input(2))
    return found


def prelu(call: Call) -> Gradients:
    """y = x for x ≥ 0, else s x: dx = g (1 or s), ds = Σ g x [x < 0]"""
    x, slope = call.x, call.input(1)
    negative = x.less(0)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = negative.where(call.g * slope, call.g)
    if 1 in call.wanted:
        found[1] = negative.where(call.g * x, 0.0).reduced_to(slope)
    return found


def dropout(call: Call) -> Gradients:
    """y = x at inference: dx = g; Declined in training mode, whose mask is random"""
    flag = call.node.input(2)
    if flag is not None and (flag.constant is None or bool(flag.constant.array())):
        raise Declined("Dropout in training mode")
    return {0: call.g}


RULES: dict[str, Rule] = {
    "Add": add, "Sub": sub, "Mul": mul, "Div": div, "Pow": power, "Mod": modulo, "Sum": total, "Mean": mean,
    "Max": extremum, "Min": extremum, "Clip": clip, "Where": where, "PRelu": prelu, "Dropout": dropout,
}  # fmt: skip
