"""Operators that move elements and compute nothing: Reshape and its kind, Transpose."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import Declined
from ...ir import Node, Value
from ...ops import attr
from .computed_shapes import leaves
from .operands import constant_array
from .operations import Dequantize, Operation, Reshape, Transpose, is_float, is_glue

_MOVES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"))


def is_move(node: Node) -> bool:
    """The node moves elements of its first input."""
    return node.op in _MOVES


def moved(
    node: Node, source: Value | None, output: Value, nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> Transpose | Reshape:
    """The operation for codes or floats; Declined where nothing that kernels know determines the target."""
    assert source is not None
    provider = known.get(source)
    floats = provider is not None and is_float(provider)
    if node.op in ("Identity", "Transpose"):
        permutation = () if node.op == "Identity" else node.attrs.get("perm")
        permutation = None if permutation is None else tuple(permutation)
        return Transpose(inputs=(source,), output=output, nodes=nodes, permutation=permutation, floats=floats)
    if node.op == "Flatten":
        axis = int(attr(node, "axis", 1))
        return Reshape(inputs=(source,), output=output, nodes=nodes, kind="flatten", target=(axis,), floats=floats)
    given = node.input(1)
    array = constant_array(given)
    if given is not None and array is None:
        if node.op != "Reshape":
            raise Declined(f"{node.op} of axes that are not constant")
        return Reshape(
            inputs=(source, *leaves(given, lambda value: _is_made(value, known))), output=output, nodes=nodes,
            kind="reshape", target=given, allow_zero=bool(node.attrs.get("allowzero", 0)), floats=floats,
        )  # fmt: skip
    if array is None:
        named = node.attrs.get("axes", node.attrs.get("shape"))
        target = () if named is None else tuple(int(v) for v in named)
    else:
        target = tuple(int(v) for v in array.reshape(-1).tolist())
    kind = {"Reshape": "reshape", "Squeeze": "squeeze", "Unsqueeze": "unsqueeze"}[node.op]
    return Reshape(
        inputs=(source,), output=output, nodes=nodes, kind=kind, target=target,  # type: ignore[arg-type]
        allow_zero=bool(node.attrs.get("allowzero", 0)), floats=floats,
    )  # fmt: skip


def _is_made(value: Value, known: Mapping[Value, Operation]) -> bool:
    """Kernels make the value for sure; of float arithmetic on the way the shape is computed instead."""
    return value in known and not isinstance(known[value], Dequantize) and not is_glue(known[value])
