"""Random values for one input, drawn by the input's semantics and the sample's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Array, DType
from ..value_info import ValueInfo
from .semantics import InputFacts

_MASK = re.compile(r"mask|padding|valid", re.IGNORECASE)
_LENGTH = re.compile(r"len(gth|s)?(_|$|\d)|_lens?$|seqlen", re.IGNORECASE)
_RATE = re.compile(r"^(sr|sample_?rate|sampling_?rate|fs)$", re.IGNORECASE)
_STATE = re.compile(r"state|hidden|cell|cache|past|^h\d*$|^c\d*$|^[hc]n?_?0?$", re.IGNORECASE)
_POSITION = re.compile(r"position|pos_ids", re.IGNORECASE)
_SCALE = re.compile(r"scale|ratio|speed|temperature|alpha|strength|noise|guidance|threshold", re.IGNORECASE)
_WORDS = ("alpha", "beta", "gamma", "a longer piece of text", "", "42")


@dataclass(frozen=True, slots=True)
class Style:
    """The style of drawn values: the distribution of `floats`, `limit` of indexes, `size` for inputs that are sizes.

    masked_rows: masks may exclude a whole row, as left padding does for the first queries.
    """

    floats: str = "normal"  # normal | unit | wide | small
    limit: int | None = None
    size: int = 4
    integers: int = 10
    masked_rows: bool = True


def draw(
    info: ValueInfo,
    facts: InputFacts,
    shape: tuple[int, ...],
    context: Mapping[str, int],
    style: Style,
    sample: int,
    rng: np.random.Generator,
) -> Any:
    """An array of the input's dtype and `shape`; `context` holds the bounds of indexes and lengths: `tables` (the size
    of the smallest indexed table of open size, 0 if none) and `time` (the longest length)."""
    dtype = DType(info.elem)
    if dtype is DType.STRING:
        texts = [c for c in facts.choices if isinstance(c, str)] or list(_WORDS)
        return np.asarray([texts[i] for i in rng.integers(len(texts), size=shape).ravel()], object).reshape(shape)
    if dtype is DType.BOOL:
        return _booleans(info, facts, shape, style, sample, rng)
    if dtype.is_float:
        return np.asarray(_floats(info, facts, shape, context, style, sample, rng)).astype(dtype.numpy)
    if dtype in (DType.COMPLEX64, DType.COMPLEX128):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    low, high = _range(dtype)
    integers = _integers(info, facts, shape, context, style, sample, rng, dtype)
    return np.asarray(np.clip(integers, low, high), dtype.numpy)


def _booleans(
    info: ValueInfo, facts: InputFacts, shape: tuple[int, ...], style: Style, sample: int, rng: np.random.Generator
) -> Array:
    if int(np.prod(shape)) <= 1:  # a switch, such as use_cache_branch
        return np.full(shape, sample % 2 == 1)
    if _MASK.search(info.name):
        return _mask(shape, style, sample, rng) > 0
    return np.asarray(rng.random(shape) < 0.5)


def _integers(
    info: ValueInfo, facts: InputFacts, shape: tuple[int, ...], context: Mapping[str, int], style: Style, sample: int,
    rng: np.random.Generator, dtype: DType,
) -> Array:  # fmt: skip
    if facts.limit is not None or facts.tables or "index" in facts.roles:
        return _indices(info, facts, shape, context, style, rng)
    numbers = sorted(c for c in facts.choices if not isinstance(c, str))
    few = int(np.prod(shape)) <= 4
    if few and numbers and not set(numbers) <= {0, 1}:
        rates = {n for n in numbers if n in (8000, 16000)}
        plausible = sorted(rates | {8000, 16000}) if rates else numbers
        return np.full(shape, plausible[-1 - sample % len(plausible)])
    if _RATE.search(info.name):
        return np.full(shape, (16000, 8000)[sample % 2])
    if "length" in facts.roles or (_LENGTH.search(info.name) and len(shape) <= 1):
        longest = max(context.get("time", style.size), 1)
        lengths = rng.integers(max(longest // 2, 1), longest + 1, size=shape)
        return np.where(np.arange(lengths.size).reshape(shape) == 0, longest, lengths)
    if "size" in facts.roles and (few or len(shape) <= 1):
        return np.full(shape, style.size)
    if _MASK.search(info.name) or "mask" in facts.roles or set(numbers) == {0, 1} or numbers == [0]:
        return _mask(shape, style, sample, rng)
    if _POSITION.search(info.name) and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape)
    if dtype in (DType.UINT8, DType.INT8):
        low, high = _range(dtype)
        return rng.integers(low, high + 1, size=shape)
    return rng.integers(1 if few else 0, style.integers, size=shape)


def _indices(
    info: ValueInfo,
    facts: InputFacts,
    shape: tuple[int, ...],
    context: Mapping[str, int],
    style: Style,
    rng: np.random.Generator,
) -> Array:
    limits = [n for n in (facts.limit, style.limit, context.get("tables") or None) if n is not None]
    high = max(min(limits, default=2), 1)
    low = min(max(facts.low, 0), high - 1)
    if _POSITION.search(info.name) and shape:
        return np.broadcast_to(np.clip(np.arange(shape[-1]) + low, low, high - 1), shape)
    if facts.low == 0 and facts.choices and 0 in facts.choices and high > 1 and low == 0:
        low = 1  # zero often marks padding; a sample of only padding compares nothing
    return rng.integers(low, high, size=shape)


def _mask(shape: tuple[int, ...], style: Style, sample: int, rng: np.random.Generator) -> Array:
    """Ones in even samples; ones then zeros, with at least one 1 in each row, in odd samples.

    With `masked_rows`, every fourth sample has zeros then ones: more zeros from row to row, the last of several rows
    all 0.
    """
    mask = np.ones(shape, np.int64)
    if not shape or shape[-1] < 2:
        return mask
    if sample % 4 == 2 and style.masked_rows:
        rows = mask.size // shape[-1]
        zeros = (np.arange(rows) + 1) * shape[-1] // max(rows, 2)
        return np.asarray((np.arange(shape[-1]) >= zeros[:, None]).astype(np.int64).reshape(shape))
    if sample % 2 == 0:
        return mask
    keep = rng.integers(max(shape[-1] // 2, 1), shape[-1] + 1, size=(*shape[:-1], 1))
    return np.where(np.arange(shape[-1]) < keep, mask, 0)


def _floats(
    info: ValueInfo, facts: InputFacts, shape: tuple[int, ...], context: Mapping[str, int], style: Style, sample: int,
    rng: np.random.Generator,
) -> Array:  # fmt: skip
    if facts.limit is not None or (facts.tables and "index" in facts.roles):
        return _indices(info, facts, shape, context, style, rng).astype(np.float64)
    if "size" in facts.roles:
        return np.full(shape, float(style.size))
    if "threshold" in facts.roles:
        return np.full(shape, 0.1 * (1 + sample % 4))
    if _MASK.search(info.name) or "mask" in facts.roles:
        return _mask(shape, style, sample, rng).astype(np.float64)
    if _LENGTH.search(info.name) and len(shape) <= 1:
        return np.ones(shape) if sample % 2 == 0 else rng.uniform(0.5, 1.0, shape)
    if int(np.prod(shape)) <= 4 and (len(shape) <= 1 or _SCALE.search(info.name)):
        return rng.uniform(0.5, 1.5, shape)
    if _STATE.search(info.name):
        return np.zeros(shape) if sample == 1 else rng.standard_normal(shape) * 0.3
    if style.floats == "unit" or "positive" in facts.roles:
        return rng.uniform(0.05, 1.0, shape)
    if style.floats == "small":
        return rng.standard_normal(shape) * 0.01
    if style.floats == "normal" and sample % 4 == 1:
        return rng.uniform(0.0, 1.0, shape)
    if style.floats == "normal" and sample % 4 == 3 and len(shape) == 4:
        return _picture(shape, rng)
    values = rng.standard_normal(shape)
    if style.floats == "normal" and sample % 4 == 2:  # exact zeros and values far outside the usual range
        values = np.where(rng.random(shape) < 0.1, 0.0, np.where(rng.random(shape) < 0.01, 8.0 * values, values))
    return values


def _picture(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """An image of flat regions with sharp edges, as in photographs and text: in pure noise detectors detect nothing."""
    values = np.full(shape, 0.9)
    channels_last = shape[-1] in (1, 3, 4)
    height, width = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
    for _ in range(12):
        top, left = int(rng.integers(0, max(height - 2, 1))), int(rng.integers(0, max(width - 2, 1)))
        rows = slice(top, top + int(rng.integers(2, max(height // 3, 3))))
        columns = slice(left, left + int(rng.integers(2, max(width // 2, 3))))
        region = (slice(None), rows, columns) if channels_last else (slice(None), slice(None), rows, columns)
        values[region] = rng.uniform(-1.0, 1.0)
    return values + 0.05 * rng.standard_normal(shape)


def _range(dtype: DType) -> tuple[int, int]:
    if dtype.bits < 8:
        half = 1 << (dtype.bits - 1)
        return (0, 2 * half - 1) if dtype.name.startswith("U") else (-half, half - 1)
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)
