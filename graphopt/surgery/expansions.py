"""Expansions of operators into operators of earlier opsets.

Source: the equations of ONNX's Operators.md. A function returns the nodes that compute the first result, the last of
them under its name; None where the operator has an earlier form, or raises Declined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import Declined
from ..ir import Constant, Node, TensorType, Value

Expand = Callable[[Node], "list[Node] | None"]


def _constant(array: Any) -> Value:
    return Value(constant=Constant.of(np.asarray(array)))


def _type(node: Node) -> TensorType:
    value = node.inputs[0]
    if value is None or not isinstance(value.type, TensorType):
        raise Declined(f"the type of what {node.op} reads is not known")
    return value.type


def _layer_normalization(node: Node) -> list[Node]:
    """LayerNormalization(x) = (x - m) / sqrt(mean((x - m)²) + epsilon) · scale + bias with m = mean(x)

    The means are over the axes from `axis` on.
    """
    x, type = node.inputs[0], _type(node)
    if type.rank is None or type.dtype.bits < 32:
        raise Declined("LayerNormalization of half precision or unknown rank, it has other stages")
    axes = tuple(range(int(node.attrs.get("axis", -1)) % type.rank, type.rank))
    epsilon = _constant(np.asarray(node.attrs.get("epsilon", 1e-5), type.dtype.numpy))
    mean = Node("ReduceMean", [x], {"axes": axes, "keepdims": 1})
    centred = Node("Sub", [x, mean.output])
    squares = Node("Mul", [centred.output, centred.output])
    variance = Node("ReduceMean", [squares.output], {"axes": axes, "keepdims": 1})
    shifted = Node("Add", [variance.output, epsilon])
    root = Node("Sqrt", [shifted.output])
    normal = Node("Div", [centred.output, root.output])
    nodes = [mean, centred, squares, variance, shifted, root, normal, Node("Mul", [normal.output, node.inputs[1]])]
    if (bias := node.input(2)) is not None:
        nodes.append(Node("Add", [nodes[-1].output, bias]))
    return nodes


def _or_equal(strict: str, equal: str = "Equal") -> Expand:
    def expand(node: Node) -> list[Node]:
        """a >= b is a > b or a = b, also where one of them is no number"""
        first, second = Node(strict, node.inputs), Node(equal, node.inputs)
        return [first, second, Node("Or", [first.output, second.output])]

    return expand


def _shape(node: Node) -> list[Node] | None:
    """Shape(x)[start:end]"""
    start, end = int(node.attrs.get("start", 0)), node.attrs.get("end")
    if start == 0 and end is None:
        return None
    whole = Node("Shape", node.inputs)
    last = np.iinfo(np.int64).max if end is None else int(end)
    limits = [_constant(np.array([n], np.int64)) for n in (start, last, 0)]
    return [whole, Node("Slice", [whole.output, *limits])]


def _hard_swish(node: Node) -> list[Node]:
    """x · hardsigmoid(x) with the slope 1/6"""
    gate = Node("HardSigmoid", node.inputs, {"alpha": 1 / 6, "beta": 0.5})
    return [gate, Node("Mul", [node.inputs[0], gate.output])]


EXPANSIONS: dict[tuple[str, int], Expand] = {
    ("LayerNormalization", 17): _layer_normalization,
    ("GreaterOrEqual", 12): _or_equal("Greater"),
    ("LessOrEqual", 12): _or_equal("Less"),
    ("Shape", 15): _shape,
    ("HardSwish", 14): _hard_swish,
}
"""The expansion of each operator, by the opset that introduced the operator or some of its options."""
