"""Operators that move elements and compute nothing: Reshape and its kind, Transpose."""

from __future__ import annotations

from ..ir import Node, Value
from ..ops import attr
from .operands import Refused, constant_array
from .operations import Operation, Reshape, Transpose, is_float

_MOVES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"))


def is_move(node: Node) -> bool:
    """The node moves elements of its first input."""
    return node.op in _MOVES


def moved(
    node: Node, source: Value | None, output: Value, nodes: tuple[Node, ...], provider: Operation | None
) -> Operation | None:
    """The operation for codes; Refused where the target is not constant."""
    assert source is not None
    if provider is not None and is_float(provider):
        return None
    if node.op == "Identity":
        return Transpose(inputs=(source,), output=output, nodes=nodes, permutation=())
    if node.op == "Transpose":
        permutation = node.attrs.get("perm")
        return Transpose(inputs=(source,), output=output, nodes=nodes, permutation=permutation and tuple(permutation))
    if node.op == "Flatten":
        axis = int(attr(node, "axis", 1))
        return Reshape(inputs=(source,), output=output, nodes=nodes, kind="flatten", target=(axis,))
    given = node.input(1)
    array = constant_array(given)
    if given is not None and array is None:
        raise Refused(f"{node.op} to a shape that is not constant")
    if array is None:
        named = node.attrs.get("axes", node.attrs.get("shape"))
        target = () if named is None else tuple(int(v) for v in named)
    else:
        target = tuple(int(v) for v in array.reshape(-1).tolist())
    kind = {"Reshape": "reshape", "Squeeze": "squeeze", "Unsqueeze": "unsqueeze"}[node.op]
    return Reshape(
        inputs=(source,), output=output, nodes=nodes, kind=kind, target=target,  # type: ignore[arg-type]
        allow_zero=bool(node.attrs.get("allowzero", 0)),
    )  # fmt: skip
