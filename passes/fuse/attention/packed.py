"""Queries, keys and values of one product, split along a separate axis, as in vision transformers of timm and paddle.

y f32[B,S,3 H D] becomes [B,S,3,H,D], is permuted to [3,B,H,S,D], and each third is picked.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....analysis.operands import integers
from ....ir import Node, Value
from ....ops import attr
from .core import Attention, dims_of

_THIRDS_FIRST = (2, 0, 3, 1, 4)  # [batch, length, 3, heads, size] to [3, batch, heads, length, size]


@dataclass(frozen=True, slots=True)
class Packed:
    """The thirds of y f32[B,S,3 H D] are queries, keys and values of `heads` heads, `width` D each."""

    source: Value
    heads: int
    width: int


def read_packed(attention: Attention) -> Packed | None:
    """The value of which queries, keys and values are the thirds; None where there is none."""
    turned = attention.k.producer
    if turned is None or turned.op != "Transpose" or tuple(turned.attrs.get("perm", ())) != (0, 1, 3, 2):
        return None
    parts = [_part(value) for value in (attention.q, turned.inputs[0], attention.v)]
    thirds = {node for node, _ in (part for part in parts if part is not None)}
    if None in parts or len(thirds) != 1 or [part[1] for part in parts if part is not None] != [0, 1, 2]:
        return None
    return _source(thirds.pop())


def _part(value: Value | None) -> tuple[Node, int] | None:
    """The Transpose that `value` is a part of, and the place along its first axis; None for others."""
    node = None if value is None else value.producer
    if node is None or node.domain or value is None:
        return None
    if node.op == "Gather" and attr(node, "axis", 0) == 0:
        index = node.constant(1)
        return None if index is None or index.shape else _of_transpose(node.inputs[0], int(index.array()))
    if node.op != "Squeeze" or node.inputs[0] is None or integers(node, 1, "axes") != [0]:
        return None
    split = node.inputs[0].producer
    if split is None or split.op != "Split" or attr(split, "axis", 0) != 0 or len(split.outputs) != 3:
        return None
    if any(dims_of(part)[:1] != (1,) for part in split.outputs):
        return None
    return _of_transpose(split.inputs[0], node.inputs[0].index)


def _of_transpose(value: Value | None, place: int) -> tuple[Node, int] | None:
    node = None if value is None else value.producer
    thirds = node is not None and node.op == "Transpose" and tuple(node.attrs.get("perm", ())) == _THIRDS_FIRST
    return (node, place % 3) if node is not None and thirds else None


def _source(turned: Node) -> Packed | None:
    split = turned.inputs[0]
    node = None if split is None else split.producer
    if split is None or node is None or node.op != "Reshape" or node.inputs[0] is None:
        return None
    before, after = dims_of(node.inputs[0]), dims_of(split)
    if len(before) != 3 or len(after) != 5 or after[2] != 3:
        return None
    heads, width = after[3], after[4]
    if not isinstance(heads, int) or not isinstance(width, int) or before[2] != 3 * heads * width:
        return None
    sizes = node.constant(1)
    numbers = [] if sizes is None else sizes.array().tolist()
    kept = numbers[:1] == [0] and numbers[1:2] in ([0], [-1]) and not attr(node, "allowzero", 0)
    if not kept and (None in before[:2] or before[:2] != after[:2]):
        return None  # the Reshape may split the rows
    return Packed(node.inputs[0], heads, width)
