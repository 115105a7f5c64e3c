"""Lowering of Gelu in every form: as subgraphs with Erf or Tanh, and as operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from ....ir import Node, Value
from ....ops import attr
from ..operands import constant_array
from ..operations import Gelu
from ..traits import Operation
from .operations import FloatFunction

_ROOT = 0.7071067811865476  # √½
_DEPTH = 6
"""Bounds the recursion: operators between Gelu's result and its Erf or Tanh."""
_Terms = tuple[float, float, float, float]  # factors of 1, x, curve, x · curve; the curve is erf or tanh

_NEAR = 1e-6
"""The tolerated error of a factor that should be ½: a few units in the last place of float32."""

_TANH = 0.7978845608028654, 0.044715  # √(2/π), and the factor of x³ in the tanh of ONNX's Gelu


def gelu(node: Node, known: Mapping[Value, Operation]) -> Gelu | None:
    """The float32 Gelu whose last node is `node`; None for other nodes, and where kernels do not compute its input.

    All forms, 0.5 · x · (1 + erf(x / √2)), x · (0.5 + 0.5 · erf(…)), (x · 0.5) · …, expand to
    plain · x + bent · x · erf(inner · x).
    """
    if node.op in ("Gelu", "com.microsoft::Gelu"):
        x = node.inputs[0]
        if attr(node, "approximate", "none") != "none":
            return None
        return _gelu(node, x, _ROOT, (0.0, 0.5, 0.0, 0.5), (node,), known)
    inner = _curve_behind(node.output, "Erf", 0)
    if inner is None:
        return None
    factor, x = 1.0, inner.inputs[0]
    nodes = [inner]
    while x is not None and x.producer is not None and x.producer.op in ("Mul", "Div"):
        scaled = _scaled(x.producer)
        if scaled is None:
            break
        nodes.append(x.producer)
        x, by = scaled
        factor *= by
    if x is None:
        return None
    terms = _terms(node.output, x, inner.output, nodes, 0)
    return None if terms is None else _gelu(node, x, factor, terms, tuple(dict.fromkeys(reversed(nodes))), known)


def _gelu(
    node: Node, x: Value | None, inner: float, terms: _Terms, nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> Gelu | None:
    if not is_made(x, known) or terms[0] or terms[2]:
        return None
    return Gelu(inputs=(x,), output=node.output, nodes=nodes, inner=inner, plain=terms[1], bent=terms[3])


def _curve_behind(value: Value | None, op: str, depth: int) -> Node | None:
    """The nearest producer with this operator that only arithmetic separates from the value."""
    node = None if value is None else value.producer
    if node is None or depth > _DEPTH:
        return None
    if node.op == op:
        return node
    if node.op not in ("Mul", "Add", "Sub", "Div"):
        return None
    return _curve_behind(node.inputs[0], op, depth + 1) or _curve_behind(node.inputs[1], op, depth + 1)


def scalar(value: Value | None) -> float | None:
    """The number of a constant with one element and at most one axis, else None."""
    array = constant_array(value)
    return float(array.reshape(())) if array is not None and array.size == 1 and array.ndim <= 1 else None


def _scaled(node: Node) -> tuple[Value | None, float] | None:
    """The value and the constant factor of a Mul or Div."""
    right = scalar(node.inputs[1])
    if right:
        return node.inputs[0], right if node.op == "Mul" else 1 / right
    left = scalar(node.inputs[0])
    return (node.inputs[1], left) if left is not None and node.op == "Mul" else None


def _terms(value: Value | None, x: Value, curve: Value, nodes: list[Node], depth: int) -> _Terms | None:
    """The coefficients of the value as a sum of 1, x, curve and x · curve; None where it is no such sum."""
    if value is x:
        return 0.0, 1.0, 0.0, 0.0
    if value is curve:
        return 0.0, 0.0, 1.0, 0.0
    number = scalar(value)
    if number is not None:
        return number, 0.0, 0.0, 0.0
    node = None if value is None else value.producer
    if node is None or node.op not in ("Mul", "Add", "Sub", "Div") or depth > _DEPTH:
        return None
    a, b = (_terms(operand, x, curve, nodes, depth + 1) for operand in node.inputs)
    if a is None or b is None:
        return None
    nodes.insert(0, node)
    if node.op in ("Add", "Sub"):
        sign = 1.0 if node.op == "Add" else -1.0
        return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2], a[3] + sign * b[3]
    if node.op == "Div":
        return None if not b[0] or any(b[1:]) else (a[0] / b[0], a[1] / b[0], a[2] / b[0], a[3] / b[0])
    if a[1] * b[1] or a[2] * b[2] or a[3] * (b[1] or b[2] or b[3]) or b[3] * (a[1] or a[2]):
        return None
    mixed = a[0] * b[3] + a[3] * b[0] + a[1] * b[2] + a[2] * b[1]
    return a[0] * b[0], a[0] * b[1] + a[1] * b[0], a[0] * b[2] + a[2] * b[0], mixed


def gelu_by_tanh(node: Node, known: Mapping[Value, Operation]) -> FloatFunction | None:
    """x / 2 · (1 + tanh(c x + d x³)), in any form, whose last node is `node`; None for other nodes.

    ½ (1 + tanh u) is the sigmoid of 2 u.
    """
    x = node.inputs[0]
    if node.op in ("Gelu", "com.microsoft::Gelu"):
        first, third = _TANH[0], _TANH[0] * _TANH[1]
        return (
            _by_sigmoid(node, x, (first, third), (node,), known)
            if attr(node, "approximate", "none") == "tanh"
            else None
        )
    found = spelled_by_tanh(node)
    return None if found is None else _by_sigmoid(node, *found, known)


def spelled_by_tanh(node: Node) -> tuple[Value, tuple[float, float], tuple[Node, ...]] | None:
    """x, (c, d) and all nodes of x / 2 · (1 + tanh(c x + d x³)) whose last node is `node`; None for other nodes."""
    curve = _curve_behind(node.output, "Tanh", 0)
    if curve is None:
        return None
    for x in _factors(node.output, 0):
        nodes = [curve]
        terms = _terms(node.output, x, curve.output, nodes, 0)
        if terms is None or terms[0] or terms[2] or abs(terms[1] - 0.5) > _NEAR or abs(terms[3] - 0.5) > _NEAR:
            continue
        inner = _polynomial(curve.inputs[0], x, nodes, 0)
        if inner is not None and not any(inner[degree] for degree in (0, 2)):
            return x, (inner[1], inner[3]), tuple(dict.fromkeys(reversed(nodes)))
    return None


def _by_sigmoid(
    node: Node, x: Value | None, inner: tuple[float, float], nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> FloatFunction | None:
    if not is_made(x, known):
        return None
    return FloatFunction(
        inputs=(x,), output=node.output, nodes=nodes, function="gated", a=2 * inner[0], b=2 * inner[1]
    )  # fmt: skip


def is_made(x: Value | None, known: Mapping[Value, Operation]) -> TypeGuard[Value]:
    """Whether kernels compute the value as float32."""
    return x is not None and x in known and known[x].writes_float


def _factors(value: Value | None, depth: int) -> list[Value]:
    """The operands from which products and sums compute `value`, those nearest to the inputs first."""
    node = None if value is None else value.producer
    if value is None or depth > _DEPTH:
        return []
    inner = (
        [x for v in node.inputs for x in _factors(v, depth + 1)]
        if node is not None and node.op in ("Mul", "Add")
        else []
    )
    return [*inner, value] if scalar(value) is None else inner


def _polynomial(value: Value | None, x: Value, nodes: list[Node], depth: int) -> tuple[float, ...] | None:
    """The coefficients of 1, x, x² and x³ where the value is a polynomial of x of degree 3 or less, else None."""
    if value is x:
        return 0.0, 1.0, 0.0, 0.0
    number = scalar(value)
    if number is not None:
        return number, 0.0, 0.0, 0.0
    node = None if value is None else value.producer
    if node is None or node.op not in ("Mul", "Add", "Pow") or depth > _DEPTH:
        return None
    a, b = (_polynomial(operand, x, nodes, depth + 1) for operand in node.inputs)
    if a is None or b is None:
        return None
    nodes.insert(0, node)
    if node.op == "Add":
        return tuple(p + q for p, q in zip(a, b))
    if node.op == "Pow":
        power = int(b[0])
        if a != (0.0, 1.0, 0.0, 0.0) or any(b[1:]) or power != b[0] or not 0 < power < len(a):
            return None
        return tuple(float(degree == power) for degree in range(len(a)))
    product = [0.0] * (2 * len(a))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            product[i + j] += p * q
    return None if any(product[len(a) :]) else tuple(product[: len(a)])
