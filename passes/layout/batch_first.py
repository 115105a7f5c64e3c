"""Heads along a flattened batch, as torch's nn.MultiheadAttention splits them: the batch comes first again.

torch computes on f32[S,B,E], time first, and lets batch and heads share an axis. With the batch first the
transpositions around the attention cancel, and the heads are split as other exporters split them.
"""

from __future__ import annotations

import numpy as np

from ...analysis.operands import shape_of
from ...errors import Declined
from ...ir import Dim, Node, Value
from ...ops import same_by_count
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, OpPattern, any_value, op, rule

SWAP = (1, 0, 2)  # [length, batch · heads, size] to batch first
_BETWEEN = frozenset(("MatMul", "Add", "Split", "Slice"))
_FAR = 6  # the most operators between the heads and the transposition around the attention: product, bias, slices


def _merged() -> OpPattern:
    return op.Reshape(any_value("x"), any_value("flat", optional=True), name="first", shared=True)


def _turned() -> OpPattern:
    return op.Transpose(_merged(), name="turn", shared=True)


@rule(op.Reshape(_turned(), any_value("sizes"), name="last"), min_opset=5)
def split_heads_of_batch(build: Builder, x: Value, first: Node, turn: Node, last: Node) -> Value:
    """reshape(permute(reshape(x, [S, B H, D])), [B, H, S, D]) = permute(reshape(permute(x), [B, S, H, D]))

    Or [B, H, D, S], where transpositions of keys were joined.
    """
    return _split(build, x, first, last, turn.attrs.get("perm"))


def _split(build: Builder, x: Value, first: Node, last: Node, perm: tuple[int, ...] | None) -> Value:
    if perm not in (SWAP, (1, 2, 0)):
        raise Declined("time and batch do not change places")
    heads, width = _heads(shape_of(x), shape_of(first.output), shape_of(last.output), perm != SWAP)
    if not _comes_from_swap(x):
        raise Declined("no transposition of time and batch comes before it")
    split = build.Reshape(build.Transpose(x, perm=SWAP), np.array([0, 0, heads, width], np.int64))
    return build.Transpose(split, perm=(0, 2, 1, 3) if perm == SWAP else (0, 2, 3, 1))


def _heads(
    source: tuple[Dim, ...] | None, flat: tuple[Dim, ...] | None, target: tuple[Dim, ...] | None, transposed: bool
) -> tuple[int, int]:
    """The number of heads and their width, where f32[S,B H,D] is split into batch and heads; Declined otherwise."""
    if source is None or flat is None or target is None or (len(source), len(flat), len(target)) != (3, 3, 4):
        raise Declined("not three axes reshaped to four")
    length, batch, width = source
    heads, size = target[1], flat[2]
    if not isinstance(heads, int) or not isinstance(size, int) or width != heads * size:
        raise Declined("the heads are not known")
    after = (batch, heads, size, length) if transposed else (batch, heads, length, size)
    if not same_by_count(target, after) or flat[0] is None or flat[0] != length or 0 in source:
        raise Declined("the batch is not split off")
    return heads, size


def _comes_from_swap(value: Value) -> bool:
    """A transposition of time and batch comes before `value`, with only products, sums and slices between."""
    for _ in range(_FAR):
        node = value.producer
        if node is None:
            return False
        if node.op == "Transpose":
            return node.attrs.get("perm") == SWAP
        inner = [v for v in node.inputs if v is not None and v.constant is None]
        if node.op not in _BETWEEN or len(inner) != 1:
            return False
        value = inner[0]
    return False


@rule(op.Reshape(op.Transpose(any_value("x"), perm=(2, 0, 1, 3), name="turn"), any_value("sizes"), name="last"),
      min_opset=5)  # fmt: skip
def join_heads_time_first(build: Builder, x: Value, turn: Node, last: Node) -> Value:
    """reshape(permute(x), [S, B, H D]) = permute(reshape(permute'(x), [B, S, H D])), x f32[B,H,S,D]"""
    source, target = shape_of(turn.output), shape_of(last.output)
    if source is None or target is None or len(target) != 3 or not same_by_count(source[:2], target[:2]):
        raise Declined("the heads are not joined")
    width = target[2]
    if not isinstance(width, int) or 0 in source or not _leads_to_swap(last.output):
        raise Declined("no transposition of time and batch comes after it")
    joined = build.Reshape(build.Transpose(x, perm=(0, 2, 1, 3)), np.array([0, 0, width], np.int64))
    return build.Transpose(joined, perm=SWAP)


def _leads_to_swap(value: Value) -> bool:
    """A transposition of time and batch comes after `value`, with only products, sums and slices between."""
    for _ in range(_FAR):
        node = value.users[0] if value.has_one_use else None
        if node is None:
            return False
        if node.op == "Transpose":
            return node.attrs.get("perm") == SWAP
        if node.op not in _BETWEEN or len(node.outputs) != 1:
            return False
        value = node.output
    return False


put_batch_first = rule_pass("put-batch-first", split_heads_of_batch, join_heads_time_first, doc=__doc__)
