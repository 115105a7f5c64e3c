"""Heads of attention: exporters' forms of splitting the last axis into heads, and of joining them."""

from __future__ import annotations

import numpy as np

from ....errors import Declined
from ....ir import RETURN, Dim, DType, Node, TensorType, Value
from ....ops import attr, same_by_count
from ....rewrite import Builder
from .core import dims_of

SPLIT = (0, 2, 1, 3)  # [batch, length, heads, size] to [batch, heads, length, size]
KEYS = (0, 2, 3, 1)  # the same, transposed for the product with queries


def split_heads(value: Value, perm: tuple[int, ...], build: Builder | None = None) -> tuple[Value, int]:
    """x f32[B,S,H D] and H, if `value` is transpose(reshape(x, [B,S,H,D]), perm); Declined otherwise.

    With a builder x may also be flat, f32[B S,H D], as tf2onnx writes it for a known length S: then it is reshaped.
    """
    turned = value.producer
    if turned is None or turned.op != "Transpose" or tuple(turned.attrs.get("perm", ())) != perm:
        raise Declined("the heads are not on the second axis")
    split = turned.inputs[0]
    node = None if split is None else split.producer
    x = None if node is None else node.inputs[0]
    if split is None or node is None or x is None or node.op != "Reshape":
        raise Declined("the heads are not split by a reshape")
    before, after = dims_of(x), dims_of(split)
    if build is not None and len(before) == 2 and len(after) == 4 and isinstance(after[1], int):
        x = _rows(build, x, after)
        before, after = dims_of(x), (dims_of(x)[0], *after[1:])
    if len(before) != 3 or len(after) != 4 or None in before[:2] or before[:2] != after[:2]:
        raise Declined("the reshape splits more than the last axis")
    heads, width = after[2], after[3]
    if not isinstance(before[2], int) or not isinstance(width, int) or not isinstance(heads, int):
        raise Declined("the number of heads is not known")
    if heads * width != before[2]:
        raise Declined("the heads do not fill the last axis")
    return x, heads


def _rows(build: Builder, flat: Value, heads: tuple[Dim, ...]) -> Value:
    """x f32[B,S,H D] of f32[B S,H D], where the heads are f32[B,S,H,D]."""
    (rows, width), length = dims_of(flat), heads[1]
    if rows is None or not isinstance(width, int) or not isinstance(length, int) or length < 1:
        raise Declined("the sizes are not known")
    batch = rows // length if isinstance(rows, int) else f"{rows}/{length}"  # equal names for equal rows
    split = build.Reshape(flat, np.array([-1, length, width], np.int64))
    dtype = flat.type.dtype if isinstance(flat.type, TensorType) else DType.UNDEFINED
    split.type = TensorType(dtype, (batch, length, width))
    return split


def keys_of(value: Value, build: Builder | None = None) -> tuple[Value, int]:
    """x f32[B,L,H D] and H of transposed keys f32[B,H,D,L], also where torch transposes them flattened."""
    node = value.producer
    if node is not None and node.op == "Reshape":
        return split_heads(_turned_flat(node), SPLIT, build)
    if node is not None and node.op == "Transpose" and tuple(node.attrs.get("perm", ())) == (0, 1, 3, 2):
        inner = node.inputs[0]
        if inner is not None:
            return split_heads(inner, SPLIT, build)
    return split_heads(value, KEYS, build)


def key_cache(value: Value) -> Node | None:
    """The Concat of earlier and new keys, where `value` f32[B,H,D,P+L] is its transpose."""
    turned = value.producer
    if turned is None or turned.op != "Transpose" or tuple(turned.attrs.get("perm", ())) != (0, 1, 3, 2):
        return None
    return None if turned.inputs[0] is None else value_cache(turned.inputs[0], turned)


def value_cache(value: Value, reader: Node | None = None) -> Node | None:
    """The Concat of earlier and new heads, f32[B,H,P+L,D], with two users: `reader` (or any) and the graph's result.

    None where it has others.
    """
    node = value.producer
    if node is None or node.op != "Concat" or len(node.inputs) != 2 or attr(node, "axis", 0) not in (2, -2):
        return None
    inside = [user for user in value.users if user.op != RETURN]
    if len(inside) != 1 or (reader is not None and inside != [reader]) or None in node.inputs:
        return None
    return node if all(v is not None and len(dims_of(v)) == 4 for v in node.inputs) else None


def last_input(node: Node) -> Value:
    """The last operand of a Concat."""
    value = node.inputs[-1]
    if value is None:
        raise Declined("the last operand is missing", node)
    return value


def straight_keys(build: Builder, value: Value) -> Value:
    """k f32[B,H,L,D] of transposed keys f32[B,H,D,L]."""
    node = value.producer
    perm = () if node is None or node.op != "Transpose" else tuple(node.attrs.get("perm", ()))
    inner = None if node is None else node.inputs[0]
    if node is not None and node.op == "Reshape":
        return _turned_flat(node)
    if inner is None or perm not in ((0, 1, 3, 2), KEYS):
        raise Declined("the keys are not transposed")
    return inner if perm != KEYS else build.Transpose(inner, perm=SPLIT)


def repeated_heads(value: Value) -> Value | None:
    """x f32[B,G,L,D], if `value` f32[B,G R,L,D] repeats each of its G heads R times; else None."""
    last = value.producer
    wide = last.inputs[0].producer if last is not None and last.op == "Reshape" and last.inputs[0] is not None else None
    lifted = (
        wide.inputs[0].producer if wide is not None and wide.op == "Expand" and wide.inputs[0] is not None else None
    )
    x = lifted.inputs[0] if lifted is not None and lifted.op in ("Unsqueeze", "Reshape") else None
    if x is None or wide is None or lifted is None:
        return None
    narrow, one, many, whole = (dims_of(v) for v in (x, lifted.output, wide.output, value))
    groups = narrow[1] if len(narrow) == 4 else None
    if not isinstance(groups, int) or len(many) != 5 or not isinstance(many[2], int) or None in narrow:
        return None
    fits = one == (*narrow[:2], 1, *narrow[2:]) and many == (*narrow[:2], many[2], *narrow[2:])
    return x if fits and whole == (narrow[0], groups * many[2], *narrow[2:]) else None


def _turned_flat(last: Node) -> Value:
    """k f32[B,H,L,D], where `last` is reshape(transpose(reshape(k, [B H,L,D]), [0,2,1]), [B,H,D,L])."""
    turned = last.inputs[0].producer if last.inputs[0] is not None else None
    flat = turned.inputs[0].producer if turned is not None and turned.inputs[0] is not None else None
    k = flat.inputs[0] if flat is not None and flat.op == "Reshape" else None
    if turned is None or flat is None or k is None or turned.op != "Transpose":
        raise Declined("the keys are not transposed")
    before, middle, after = dims_of(k), dims_of(flat.output), dims_of(last.output)
    turns = tuple(turned.attrs.get("perm", ())) == (0, 2, 1) and len(before) == 4 and len(middle) == 3
    whole = same_by_count(after, (*before[:2], before[3], before[2])) if len(before) == 4 else False
    if not turns or None in before or middle[1:] != before[2:] or not whole:
        raise Declined("the keys are not transposed head by head")
    return k


def joined_heads(value: Value, size: int) -> Node:
    """The Reshape that puts heads of f32[B,H,S,E] side by side, f32[B,S,size] or flat f32[B S,size]."""
    if not value.has_one_use:
        raise Declined("the heads are used one by one")
    turned = value.users[0]
    if turned.op != "Transpose" or tuple(turned.attrs.get("perm", ())) != SPLIT or not turned.output.has_one_use:
        raise Declined("the heads are not put back")
    last = turned.output.users[0]
    if last.op != "Reshape" or last.inputs[0] is not turned.output or len(dims_of(last.output)) not in (2, 3):
        raise Declined("the heads are not joined by a reshape")
    if _width(last.output) != size:
        raise Declined("the heads are joined with another axis")
    return last


def keeps_rows(last: Node) -> bool:
    """A Reshape of f32[B,S,H,D] to f32[B,S,H D] by a constant [0, 0 or -1, H D]: batch and rows are kept."""
    sizes = last.constant(1)
    numbers = [] if sizes is None else sizes.array().tolist()
    return len(numbers) == 3 and numbers[0] == 0 and numbers[1] in (0, -1) and not attr(last, "allowzero", 0)


def _width(value: Value) -> int | None:
    """The size of the last axis: known, or required by a product with a weight."""
    last = dims_of(value)[-1]
    if isinstance(last, int):
        return last
    for node in value.users:
        factor = node.input(1) if node.op in ("MatMul", "Gemm") and node.inputs[0] is value else None
        shape = () if factor is None else dims_of(factor)
        rows = shape[attr(node, "transB", 0) if node.op == "Gemm" else 0] if len(shape) == 2 else None
        if isinstance(rows, int) and not (node.op == "Gemm" and attr(node, "transA", 0)):
            return rows
    return None
