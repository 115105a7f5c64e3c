"""Operators of transformers: attention, whose query heads are removed with their key and value heads, and rotary
positions.

Positions within a head are fixed: attention scales by their number, and rotations pair them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import Declined
from ...ir import Node, Value
from ...ops import attr
from .axes import Axes
from .elements import Ids
from .elementwise import where
from .tracker import Tracker, transfer

_PAST, _PRESENT = (4, 5), (1, 2)
"""Input and output slots of the cache: keys and values."""


@transfer("Attention")
def attention(t: Tracker, node: Node) -> None:
    """softmax(Q Kᵀ scale + mask) V: query heads are united with their head of K and V (grouped attention)."""
    q, k, v = node.inputs[:3]
    counts = [int(attr(node, name, 0)) for name in ("q_num_heads", "kv_num_heads")]
    heads, key_heads, channels, axes = _grouped(t, node, (q, k, v), (counts[0], counts[1], counts[1]))
    if len(axes[0]) == 3:
        t.update_size(node, "q_num_heads", counts[:1], 0, heads)
        t.update_size(node, "kv_num_heads", counts[1:], 0, key_heads)
        per_head = _per_head(t, v, counts[1])
        t.set(node.output, (axes[0][0], None, None if heads is None else np.repeat(heads, per_head)))
    else:
        t.set(node.output, (axes[0][0], heads, None, channels))
    _join_mask(t, node, node.input(3), heads)
    for slot in _PAST:
        past = node.input(slot)
        if past is not None:
            own = t.axes(past)
            t.join([own[1], key_heads], f"{where(node)} keeps its cache")
            t.fix_all((*own[:1], *own[2:]), f"{where(node)} keeps its cache")
    for number, out in enumerate(node.outputs[1:], 1):
        made = key_heads if number in _PRESENT else heads
        t.set(out, (None, made, None, None))
        if number == _PRESENT[1] and not out.is_unused:
            t.fix(channels, f"{where(node)} keeps its cache")


@transfer("com.microsoft::MultiHeadAttention")
def multi_head(t: Tracker, node: Node) -> None:
    """Q, K and V [batch, positions, heads · size], with one bias for the three. Declined where packed or cached."""
    count = int(attr(node, "num_heads", 0))
    q, k, v = (node.input(slot) for slot in range(3))
    if k is None or v is None or any(node.input(slot) is not None for slot in (6, 7)):
        raise Declined("its operands are packed, or cached")
    if any(not out.is_unused for out in node.outputs[1:]):
        raise Declined("it keeps a cache")
    if any(len(t.axes(x)) != 3 for x in (q, k, v)) or not count:
        raise Declined("its operands are in heads")
    heads, _, _, axes = _grouped(t, node, (q, k, v), (count,) * 3)
    sizes = [_per_head(t, x, count) for x in (q, k, v)]
    if node.input(3) is not None:
        joined = None if heads is None else np.concatenate([np.repeat(heads, size) for size in sizes])
        t.join([t.axes(node.input(3))[0], joined], f"{where(node)} has a bias that stays")
    _join_mask(t, node, node.input(5), heads)
    t.update_size(node, "num_heads", (count,), 0, heads)
    t.set(node.output, (axes[0][0], None, None if heads is None else np.repeat(heads, sizes[2])))


def _grouped(
    t: Tracker, node: Node, operands: Sequence[Value | None], counts: Sequence[int]
) -> tuple[Ids | None, Ids | None, Ids | None, list[Axes]]:
    """Unite the heads of Q with their heads of K and V.

    Returns the heads of Q, the heads of K, the channels of a V with four axes, and the axes of all three.
    """
    reason = f"{where(node)} attends over it"
    axes = [t.axes(x) for x in operands]
    heads: list[Ids | None] = []
    for own, count in zip(axes, counts):
        if len(own) == 4:
            heads.append(own[1])
        elif len(own) == 3 and count:
            heads.append(by_head(t, own[2], count))
        else:
            raise Declined("its heads are not known")
        t.fix(own[-2] if len(own) == 4 else own[1], reason)
    for own in axes[:2]:
        if len(own) == 4:
            t.fix(own[3], reason)
    t.fix(t.join([own[0] for own in axes], reason), reason)
    query, key = heads[0], t.join(heads[1:], f"{where(node)} reads values that stay")
    channels = axes[2][3] if len(axes[2]) == 4 else None
    if (t.size(operands[1], 1) if len(axes[1]) == 4 else counts[1]) == 1:  # type: ignore[arg-type]
        t.fix(key, f"{where(node)} has one head of keys")
        return query, None, channels, axes
    if query is None or key is None or len(query) == len(key):
        both = t.join([query, key], f"{where(node)} reads values that stay")
        return both, both, channels, axes
    groups = query.reshape(len(key), -1)
    for column in range(groups.shape[1]):
        t.elements.unite(groups[:, column], key)
    return query, key, channels, axes


def by_head(t: Tracker, ids: Ids | None, count: int) -> Ids | None:
    """Unite the positions within each of `count` heads of an axis; returns one element a head."""
    if ids is None or count < 1 or len(ids) % count:
        t.fix(ids, f"{t.location} splits it into heads")
        return None
    grid = ids.reshape(count, -1)
    for column in range(1, grid.shape[1]):
        t.elements.unite(grid[:, 0], grid[:, column])
    return np.ascontiguousarray(grid[:, 0])


def _per_head(t: Tracker, value: Value | None, count: int) -> int:
    """Positions of one head in the last axis of a value."""
    size = None if value is None else t.size(value, 2)
    if not isinstance(size, int) or not count:
        raise Declined("its heads are not known")
    return size // count


def _join_mask(t: Tracker, node: Node, mask: Value | None, heads: Ids | None) -> None:
    """Unite the head axis of a mask with `heads`, unless it broadcasts; other axes are fixed."""
    if mask is None:
        return
    own = t.axes(mask)
    t.fix_all(own[-2:], f"{where(node)} adds it")
    if len(own) == 4:
        t.fix(own[0], f"{where(node)} adds it")
    if len(own) >= 3 and t.size(mask, len(own) - 3) != 1:
        t.join([own[-3], heads], f"{where(node)} adds values that stay")


@transfer("RotaryEmbedding", "com.microsoft::RotaryEmbedding")
def rotary(t: Tracker, node: Node) -> None:
    """Each head [positions, size] rotated by fixed tables [..., size / 2]: only whole heads are removable."""
    x = node.inputs[0]
    assert x is not None
    axes = t.axes(x)
    for value in node.inputs[1:]:
        if value is not None:
            t.fix_all(t.axes(value), f"{where(node)} rotates by it")
    if len(axes) == 4:
        t.fix_all(axes[2:], f"{where(node)} rotates it")
        t.set(node.output, (*axes[:2], None, None))
        return
    count = int(attr(node, "num_heads", 0))
    if not count and node.domain:
        half, ids = t.size(node.inputs[2], 1), axes[2]  # type: ignore[arg-type]
        count = len(ids) // (2 * half) if isinstance(half, int) and half and ids is not None else 0
    heads = by_head(t, axes[2], count)
    if attr(node, "num_heads", 0):
        t.update_size(node, "num_heads", (count,), 0, heads)
    t.set(node.output, (axes[0], None, axes[2]))
