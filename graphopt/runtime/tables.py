"""Elementwise float islands between DequantizeLinear and QuantizeLinear: functions of one code, hence tables.

Whatever chain of elementwise operators reads a single quantized tensor (and scalar constants), its result depends on
one of 256 codes: it is evaluated for all of them, operator by operator in float32, as the model says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir import Node, Value
from ..ops import attr, version_for
from .operands import Refused, constant_array, is_constant, is_dequantize, quantization_of

Floats = npt.NDArray[np.float32]
_DEPTH = 24


@dataclass(frozen=True, slots=True)
class Island:
    """A float value that is a function of the codes of `source`: its 256 values, and the nodes between."""

    source: Value
    values: Floats
    nodes: tuple[Node, ...]


def island(value: Value, known: dict[Value, Island | None], depth: int = 0) -> Island | None:
    """The island that computes `value`, None if it is not a function of one quantized tensor."""
    if value not in known:
        known[value] = None if depth > _DEPTH else _island(value, known, depth)
    return known[value]


def _island(value: Value, known: dict[Value, Island | None], depth: int) -> Island | None:
    node = value.producer
    if node is None or len(node.outputs) != 1:
        return None
    if is_dequantize(node):
        source = node.inputs[0]
        if source is None or is_constant(source):
            return None
        try:
            scale = quantization_of(node.input(1), node.input(2))
        except Refused:
            return None
        return Island(source, scale.dequantize(scale.codes()), (node,))
    evaluate = _UNARY.get(node.op) or _BINARY.get(node.op)
    if evaluate is None or not node.inputs:
        return None
    operands: list[Any] = []
    found: list[Island] = []
    for operand in node.inputs:
        constant = constant_array(operand)
        if operand is None:
            operands.append(None)
        elif constant is not None:
            if constant.size != 1 or constant.ndim > 1 or constant.dtype != np.float32:
                return None
            operands.append(constant.reshape(()))
        else:
            part = island(operand, known, depth + 1)
            if part is None or (found and part.source is not found[0].source):
                return None
            found.append(part)
            operands.append(part.values)
    if not found:
        return None
    with np.errstate(all="ignore"):
        values = np.asarray(evaluate(node, *operands), np.float32)
    nodes = (*tuple(dict.fromkeys(n for part in found for n in part.nodes)), node)
    return Island(found[0].source, np.broadcast_to(values, (256,)), nodes)


def _clip(node: Node, x: Floats, low: Any = None, high: Any = None) -> Floats:
    if version_for(node) < 11:
        low, high = np.float32(attr(node, "min", -np.inf)), np.float32(attr(node, "max", np.inf))
    low = np.float32(-np.inf) if low is None else low
    high = np.float32(np.inf) if high is None else high
    made: Floats = np.minimum(np.maximum(x, low), high)
    return made


def _sigmoid(node: Node | None, x: Floats) -> Floats:
    made: Floats = np.float32(1) / (np.float32(1) + np.exp(-x))
    return made


def _hard_sigmoid(node: Node, x: Floats) -> Floats:
    alpha, beta = np.float32(attr(node, "alpha", 0.2)), np.float32(attr(node, "beta", 0.5))
    made: Floats = np.maximum(np.float32(0), np.minimum(np.float32(1), alpha * x + beta))
    return made


def _hard_swish(node: Node, x: Floats) -> Floats:
    made: Floats = x * np.maximum(np.float32(0), np.minimum(np.float32(1), x / np.float32(6) + np.float32(0.5)))
    return made


def _elu(node: Node, x: Floats) -> Floats:
    alpha = np.float32(attr(node, "alpha", 1.0))
    return np.where(x < 0, alpha * (np.exp(x) - np.float32(1)), x).astype(np.float32)


def _gelu(node: Node, x: Floats) -> Floats:
    if attr(node, "approximate", "none") == "tanh":
        inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
        return (np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))).astype(np.float32)
    return np.float32(0.5) * x * (np.float32(1) + _erf(None, x * np.float32(0.7071067811865476)))


def _erf(node: Node | None, x: Floats) -> Floats:
    return np.array([erf(float(v)) for v in np.broadcast_to(x, (256,))], np.float32)


def _leaky(node: Node, x: Floats) -> Floats:
    return np.where(x < 0, np.float32(attr(node, "alpha", 0.01)) * x, x).astype(np.float32)


_UNARY: dict[str, Callable[..., Any]] = {
    "Relu": lambda n, x: np.maximum(x, np.float32(0)),
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Tanh": lambda n, x: np.tanh(x),
    "Erf": _erf,
    "Gelu": _gelu,
    "com.microsoft::Gelu": lambda n, x: (
        np.float32(0.5) * x * (np.float32(1) + _erf(None, x * np.float32(0.7071067811865476)))
    ),
    "com.microsoft::QuickGelu": lambda n, x: x * _sigmoid(None, np.float32(attr(n, "alpha", 1.702)) * x),
    "Softplus": lambda n, x: np.log1p(np.exp(x)),
    "Exp": lambda n, x: np.exp(x),
    "Abs": lambda n, x: np.abs(x),
    "Neg": lambda n, x: -x,
    "Sqrt": lambda n, x: np.sqrt(x),
    "Reciprocal": lambda n, x: np.float32(1) / x,
    "Identity": lambda n, x: x,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": lambda n, a, b: a + b,
    "Sub": lambda n, a, b: a - b,
    "Mul": lambda n, a, b: a * b,
    "Div": lambda n, a, b: a / b,
    "Pow": lambda n, a, b: np.power(a, b),
    "PRelu": lambda n, x, slope: np.where(x < 0, x * slope, x),
}
