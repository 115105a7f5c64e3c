"""Preparation of attention over a cache whose length is known only when a step runs.

Buffers `rows`, `past_stride`, `key_stride`, … stand for numbers that are bound before each run, as addresses are: the
cache's rows before the run, and the bytes between its heads. So one program serves every length.

A cache is of float32, or of rows of codes: int8 [size] and their scale, a float32, in `row_bytes`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.memory import whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step

CHUNK = 256
"""Keys scored before their values are summed: with 64 elements each, 64 KB, which fit in L2. Derived."""

_SUMS = 16
"""Accumulator vectors of the heads that share each load of keys and values: half of the widest level's registers."""


class AppendSizes(NamedTuple):
    """New rows, heads, and elements of a row."""

    tokens: int
    heads: int
    size: int


class AttentionSizes(NamedTuple):
    """New rows; heads of keys, query heads for each, query heads in one tile; elements of a key and of a value, and
    their bytes; keys of a chunk. Mask strides in rows along batch, heads and new rows, 0 where the mask broadcasts."""

    tokens: int
    heads: int
    groups: int
    together: int
    size: int
    width: int
    key_bytes: int
    value_bytes: int
    chunk: int
    mask_batch: int
    mask_head: int
    mask_row: int


class RotarySizes(NamedTuple):
    """Heads, elements of a head, rotated pairs; whether pairs are neighbors (interleaved) or elements of two halves."""

    heads: int
    size: int
    half: int
    interleaved: int


_APPEND: dict[str, Any] = {
    **dict.fromkeys(("new", "past", "y", "rows", "past_stride", "y_stride"), "i64"), "sizes": AppendSizes,
}  # fmt: skip
APPEND = Kernel("graphopt.kernels.loops.attention.cached:append", _APPEND)
APPEND_CODES = Kernel("graphopt.kernels.loops.attention.cached:append_codes", _APPEND)
ATTEND = Kernel(
    "graphopt.kernels.loops.attention.cached:attend",
    {
        **dict.fromkeys(("q", "keys", "values", "mask", "y", "rows", "key_stride", "value_stride"), "i64"),
        "sizes": AttentionSizes, "scale": "f32", "scores": "i64", "sums": "i64", "scratch": "i64",
        "scratch_bytes": "i64",
    },
)  # fmt: skip
ROTATE = Kernel(
    "graphopt.kernels.loops.attention.cached:rotate",
    {**dict.fromkeys(("x", "y", "cos", "sin"), "i64"), "sizes": RotarySizes},
)


def row_bytes(size: int, coded: bool) -> int:
    """Bytes of a cache row: `size` float32, or `size` codes and their scale."""
    return size + 4 if coded else 4 * size


def prepare_append(batch: int, count: int, heads: int, size: int, coded: bool = False) -> Routine:
    """y[batch, heads, rows + count, size] = past[batch, heads, rows, size] followed by new[batch, count, heads · size].

    Heads lie past_stride and y_stride bytes apart. Where y and past are one buffer, only the new rows are written; in a
    `coded` cache they become rows of codes.
    """
    arguments: dict[str, Argument] = {
        **{name: Buffer(name) for name in ("new", "past", "y", "rows", "past_stride", "y_stride")},
        "sizes": AppendSizes(count, heads, size),
    }  # fmt: skip
    kernel = APPEND_CODES if coded else APPEND
    return Routine((Step(kernel, arguments, tiles=batch * heads),) if batch * count else ())


def prepare_attention(
    batch: int, count: int, heads: int, groups: int, size: int, width: int, scale: float,
    mask: tuple[int, int, int] | None = None, *, coded: bool = False, level: Level | None = None,
) -> Routine:  # fmt: skip
    """y[batch, count, heads · groups · width] = softmax(scale · q keysᵀ + mask) values; `groups` heads share keys.

    q: [batch, count, heads · groups · size]; keys: [batch, heads, rows + count, size] and values with `width`, heads
    key_stride and value_stride bytes apart, rows of codes if `coded`; `mask`: sizes of the mask along batch, heads and
    new rows, 1 to broadcast; its rows are rows + count long. Raises ValueError for sizes that are not whole vectors.
    """
    level = level or select_level()
    if size % level.lanes or width % level.lanes:
        raise ValueError(f"attention of heads of {size} and {width}, no whole vectors of {level.lanes}")
    if batch * count == 0:
        return Routine(())
    most = max(1, _SUMS * level.lanes // max(size, width))
    together = max(n for n in range(1, groups + 1) if groups % n == 0 and n <= most)
    strides = (0, 0, 0)
    if mask is not None:
        rows = mask[2], mask[1] * mask[2]
        strides = (rows[1] if mask[0] > 1 else 0, rows[0] if mask[1] > 1 else 0, 1 if mask[2] > 1 else 0)
    scratch = whole_lines(256 + 4 * together * (size + CHUNK + width + 2))
    source, bytes_of = "graphopt.kernels.micro.attention_tile:", (row_bytes(size, coded), row_bytes(width, coded))
    sizes = AttentionSizes(count, heads, groups, together, size, width, *bytes_of, CHUNK, *strides)
    arguments: dict[str, Argument] = {
        **{name: Buffer(name) for name in ("q", "keys", "values")}, "mask": 0 if mask is None else Buffer("mask"),
        **{name: Buffer(name) for name in ("y", "rows", "key_stride", "value_stride")},
        "sizes": sizes, "scale": scale,
        "scores": MicroKernel(source + "emit_scores", (level.name, together, size, CHUNK, int(coded))),
        "sums": MicroKernel(source + "emit_values", (level.name, together, width, CHUNK, int(coded))),
        "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    tiles = batch * heads * count * (groups // together)
    return Routine((Step(ATTEND, arguments, tiles=tiles, scratch=scratch),))


def prepare_rotary(rows: int, heads: int, size: int, turned: int, interleaved: bool) -> Routine:
    """RotaryEmbedding of float32 x[rows, heads, size] by cos and sin [rows, turned / 2], the rest of each head kept.

    `turned`: rotated elements of a head. Raises ValueError if it is odd or above `size`.
    """
    if turned % 2 or turned > size:
        raise ValueError(f"{turned} of {size} numbers to turn in pairs")
    arguments: dict[str, Argument] = {
        **{name: Buffer(name) for name in ("x", "y", "cos", "sin")},
        "sizes": RotarySizes(heads, size, turned // 2, int(interleaved)),
    }  # fmt: skip
    return Routine((Step(ROTATE, arguments, tiles=rows),) if rows else ())
