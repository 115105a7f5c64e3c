"""Lowering of operators that only move elements: Transpose, Reshape, Flatten, Squeeze, Unsqueeze, Identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ...errors import Declined
from ...ir import Node, TensorType, Value
from ...ops import attr
from .computed_shapes import shape_sources
from .operands import constant_array
from .operations import Dequantize, Reshape, Transpose
from .traits import Operation

_KINDS: dict[str, Literal["reshape", "squeeze", "unsqueeze"]] = {
    "Reshape": "reshape", "Squeeze": "squeeze", "Unsqueeze": "unsqueeze",
}  # fmt: skip
_MOVES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"))


def is_move(node: Node) -> bool:
    """Whether the operator only moves the elements of its first input."""
    return node.op in _MOVES


def keeps_shape(node: Node) -> bool:
    """Whether the operator returns its input unchanged: Identity, and Reshape to zeros, which copy the sizes."""
    if node.op == "Identity":
        return True
    target = constant_array(node.input(1)) if node.op == "Reshape" and not node.attrs.get("allowzero", 0) else None
    return target is not None and not target.any() and _rank(node.inputs[0]) == target.size


def _rank(value: Value | None) -> int | None:
    declared = None if value is None else value.type
    return len(declared.shape) if isinstance(declared, TensorType) and declared.shape is not None else None


def moved(
    node: Node, source: Value | None, output: Value, nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> Transpose | Reshape:
    """`node` applied to `source`, codes or floats. Declined where known shapes do not determine its target."""
    assert source is not None
    provider = known.get(source)
    floats = provider is not None and provider.writes_float
    if node.op in ("Identity", "Transpose"):
        permutation = () if node.op == "Identity" else node.attrs.get("perm")
        permutation = None if permutation is None else tuple(permutation)
        return Transpose(inputs=(source,), output=output, nodes=nodes, permutation=permutation, floats=floats)
    if node.op == "Flatten":
        axis = int(attr(node, "axis", 1))
        return Reshape(inputs=(source,), output=output, nodes=nodes, kind="flatten", target=(axis,), floats=floats)
    target_value = node.input(1)
    array = constant_array(target_value)
    if target_value is not None and array is None:
        if node.op != "Reshape":
            raise Declined(f"{node.op} of axes that are not constant")
        shaped = shape_sources(target_value, lambda value: stays_on_kernels(value, known))
        return Reshape(
            inputs=(source, *shaped), output=output, nodes=nodes, kind="reshape", target=target_value,
            allow_zero=bool(node.attrs.get("allowzero", 0)), floats=floats,
        )  # fmt: skip
    if array is None:
        named = node.attrs.get("axes", node.attrs.get("shape"))
        target = () if named is None else tuple(int(v) for v in named)
    else:
        target = tuple(int(v) for v in array.reshape(-1).tolist())
    return Reshape(
        inputs=(source,), output=output, nodes=nodes, kind=_KINDS[node.op], target=target,
        allow_zero=bool(node.attrs.get("allowzero", 0)), floats=floats,
    )  # fmt: skip


def stays_on_kernels(value: Value, known: Mapping[Value, Operation]) -> bool:
    """Whether partition keeps the value on kernels, so that its shape is at hand; float glue may go to onnxruntime."""
    operation = known.get(value)
    return operation is not None and not isinstance(operation, Dequantize) and not operation.is_float_glue
