"""Region IR, continued: products with weights in blocks, caches that grow, attention over them, rotary embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ....ir import Array, Value
from ..traits import Element, FloatOperation, Operation, Traits
from .stored import StoredBlocks


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BlockedMatMul(Operation):
    """x [..., K] · weights [K, N] + bias; weights of `bits` in blocks of `block` along K, x rounded there to 8 bits."""

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT, writes=Element.FLOAT, is_product=True)

    weights: StoredBlocks
    bits: int
    block: int
    sizes: tuple[int, int]
    bias: Array | None = None
    last: bool = False
    """Of one prompt only the last row is computed."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rotary(FloatOperation):
    """RotaryEmbedding of x [batch, tokens, heads · size] by cos and sin [batch, tokens, turned / 2]."""

    heads: int
    interleaved: bool
    turned: int
    """Elements of a head that are rotated; 0 for all."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AppendCache(FloatOperation):
    """Appends keys or values of new tokens, [batch, tokens, heads · size], to a cache [batch, heads, past, size].

    The cache is an input of the region and the result an output, both of any length in one executable. `coded`: both
    are uint8 [batch, heads, rows, size + 4], rows of codes and their scale.
    """

    heads: int
    coded: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CachedAttention(FloatOperation):
    """softmax(scale · q keysᵀ + mask) values, keys and values being results of AppendCache.

    q: [batch, tokens, heads · groups · size]. A mask, float32 up to [batch, heads · groups, tokens, total], is an input
    of the region.
    """

    heads: int
    groups: int
    scale: float
    coded: bool = False
    """Keys and values are rows of codes."""


def with_last_row(operations: Sequence[Operation], value: Value) -> list[Operation]:
    """The operations of a region of which `value`, if a product makes it that no other reads, is the last row alone."""
    if any(value in o.inputs for o in operations):
        return list(operations)
    return [replace(o, last=True) if isinstance(o, BlockedMatMul) and o.output is value else o for o in operations]


def with_coded_caches(operations: Sequence[Operation]) -> list[Operation]:
    """The operations of a region whose caches are rows of codes."""
    return [replace(o, coded=True) if isinstance(o, (AppendCache, CachedAttention)) else o for o in operations]
