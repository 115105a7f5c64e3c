"""Lowering of functions of one float32 element: activations, also as subgraphs; the NaN guard of masked attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ....ir import Node, Value
from ....kernels.elementwise.functions import FloatFunctionName
from ....ops import attr
from ..computed_shapes import check_broadcast
from ..operands import are_floats, constant_array, is_float32
from ..operations import FloatBinary, FloatSoftmax
from ..traits import Operation
from .gelu import is_made, scalar
from .operations import FloatFunction

_Made = tuple[FloatFunctionName, float, float]
_FUNCTIONS: dict[str, Callable[[Node], _Made]] = {
    "Sigmoid": lambda node: ("sigmoid", 1.0, 0.0),
    "Tanh": lambda node: ("tanh", 0.0, 0.0),
    "Exp": lambda node: ("exp", 0.0, 0.0),
    "Erf": lambda node: ("erf", 0.0, 0.0),
    "Sqrt": lambda node: ("sqrt", 0.0, 0.0),
    "Reciprocal": lambda node: ("reciprocal", 0.0, 0.0),
    "Neg": lambda node: ("negative", 0.0, 0.0),
    "Abs": lambda node: ("absolute", 0.0, 0.0),
    "LeakyRelu": lambda node: ("leaky", float(attr(node, "alpha", 0.01)), 0.0),
    "Elu": lambda node: ("elu", float(attr(node, "alpha", 1.0)), 0.0),
    "HardSwish": lambda node: ("hard_swish", 1 / 6, 0.5),
    "Swish": lambda node: ("gated", float(attr(node, "alpha", 1.0)), 0.0),
    "com.microsoft::QuickGelu": lambda node: ("gated", float(attr(node, "alpha", 1.702)), 0.0),
}
"""The function of an operator, and its two parameters."""

OPERATORS = frozenset((*_FUNCTIONS, "PRelu"))


def function_of(node: Node, known: Mapping[Value, Operation]) -> FloatFunction | FloatBinary | None:
    """The operation of a node among OPERATORS; None where kernels do not compute its operand."""
    x = node.inputs[0]
    if node.op == "PRelu":
        slope = constant_array(node.input(1))
        if x is None or slope is None or not is_made(x, known):
            return None
        if slope.size != 1 and node.inputs[1] is not None:
            check_broadcast(x, node.inputs[1])
            return FloatBinary(inputs=(x,), output=node.output, nodes=(node,), kind="prelu", constant=slope)
        return FloatFunction(
            inputs=(x,), output=node.output, nodes=(node,), function="leaky", a=float(slope.reshape(()))
        )  # fmt: skip
    if x is None or not are_floats(node, known):
        return None
    return _operation(node, (node,), x, _FUNCTIONS[node.op](node))


def _operation(node: Node, nodes: tuple[Node, ...], x: Value, made: _Made) -> FloatFunction:
    return FloatFunction(inputs=(x,), output=node.output, nodes=nodes, function=made[0], a=made[1], b=made[2])


def gated(node: Node, known: Mapping[Value, Operation]) -> FloatFunction | None:
    """x · sigmoid(a x) or x · HardSigmoid(x) whose last node is Mul `node`; None for other products."""
    for slot in (0, 1):
        x, curve = node.inputs[slot], node.inputs[1 - slot]
        behind = None if curve is None else curve.producer
        if not is_made(x, known) or behind is None or curve is None or len(curve.uses) != 1:
            continue
        if behind.op == "HardSigmoid" and behind.inputs[0] is x:
            line = float(attr(behind, "alpha", 0.2)), float(attr(behind, "beta", 0.5))
            return _operation(node, (behind, node), x, ("hard_swish", *line))
        if behind.op != "Sigmoid":
            continue
        inner = behind.inputs[0]
        if inner is x:
            return _operation(node, (behind, node), x, ("gated", 1.0, 0.0))
        scaled = None if inner is None else inner.producer
        if scaled is not None and scaled.op == "Mul" and x in scaled.inputs:
            factor = scalar(scaled.inputs[1 - scaled.inputs.index(x)])
            if factor is not None:
                return _operation(node, (scaled, behind, node), x, ("gated", factor, 0.0))
    return None


def guarded(node: Node, known: Mapping[Value, Operation]) -> FloatFunction | FloatSoftmax | None:
    """Where(IsNaN(x), number, x), fused into a Softmax before it without other readers; None for any other Where."""
    condition, number, x = node.inputs
    test = None if condition is None else condition.producer
    given = constant_array(number)
    if test is None or test.op != "IsNaN" or test.inputs[0] is not x or given is None or given.size != 1:
        return None
    if not is_made(x, known) or not is_float32(node.output) or given.ndim > 1:
        return None
    value, before = float(given.reshape(())), known[x]
    if isinstance(before, FloatSoftmax) and {use.node for use in x.uses} == {test, node} and np.isnan(before.unknown):
        return replace(before, output=node.output, nodes=(*before.nodes, test, node), unknown=value)
    return FloatFunction(inputs=(x,), output=node.output, nodes=(test, node), function="number", a=value)
