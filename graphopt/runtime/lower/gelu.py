"""Gelu in any spelling: an expression of x and erf(inner · x), multiplied out.

0.5 · x · (1 + erf(x / √2)), x · (0.5 + 0.5 · erf(…)), (x · 0.5) · … are all plain · x + bent · x · erf(inner · x).
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import Node, Value
from ...ops import attr
from .operands import constant_array
from .operations import Gelu, Operation, is_float

_ROOT = 0.7071067811865476
_DEPTH = 6
Terms = tuple[float, float, float, float]  # factors of 1, x, erf, x · erf


def gelu(node: Node, known: Mapping[Value, Operation]) -> Gelu | None:
    """The operation whose result `node` writes, where kernels make x; None where it is something else."""
    if node.op in ("Gelu", "com.microsoft::Gelu"):
        x = node.inputs[0]
        if attr(node, "approximate", "none") != "none":
            return None
        return _made(node, x, _ROOT, (0.0, 0.5, 0.0, 0.5), (node,), known)
    inner = _erf_behind(node.output, 0)
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
    return None if terms is None else _made(node, x, factor, terms, tuple(dict.fromkeys(reversed(nodes))), known)


def _made(
    node: Node, x: Value | None, inner: float, terms: Terms, nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> Gelu | None:
    if x is None or x not in known or not is_float(known[x]) or terms[0] or terms[2]:
        return None
    return Gelu(inputs=(x,), output=node.output, nodes=nodes, inner=inner, plain=terms[1], bent=terms[3])


def _erf_behind(value: Value | None, depth: int) -> Node | None:
    """The nearest Erf that the value is computed from by arithmetic."""
    node = None if value is None else value.producer
    if node is None or depth > _DEPTH:
        return None
    if node.op == "Erf":
        return node
    if node.op not in ("Mul", "Add", "Sub", "Div"):
        return None
    return _erf_behind(node.inputs[0], depth + 1) or _erf_behind(node.inputs[1], depth + 1)


def _scalar(value: Value | None) -> float | None:
    array = constant_array(value)
    return float(array.reshape(())) if array is not None and array.size == 1 and array.ndim <= 1 else None


def _scaled(node: Node) -> tuple[Value | None, float] | None:
    """The value and the constant factor of a Mul or Div."""
    right = _scalar(node.inputs[1])
    if right:
        return node.inputs[0], right if node.op == "Mul" else 1 / right
    left = _scalar(node.inputs[0])
    return (node.inputs[1], left) if left is not None and node.op == "Mul" else None


def _terms(value: Value | None, x: Value, erf: Value, nodes: list[Node], depth: int) -> Terms | None:
    """The value multiplied out; None where it is no such expression."""
    if value is x:
        return 0.0, 1.0, 0.0, 0.0
    if value is erf:
        return 0.0, 0.0, 1.0, 0.0
    scalar = _scalar(value)
    if scalar is not None:
        return scalar, 0.0, 0.0, 0.0
    node = None if value is None else value.producer
    if node is None or node.op not in ("Mul", "Add", "Sub", "Div") or depth > _DEPTH:
        return None
    a, b = (_terms(operand, x, erf, nodes, depth + 1) for operand in node.inputs)
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
