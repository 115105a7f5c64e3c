"""The semantics of a language model's operations in plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.runtime.lower.decoders import operations as d
from tests.kernels.products.test_blocked_matmul import product

Array = np.ndarray[Any, Any]


def _codes(stored: Array, bits: int, count: int) -> Array:
    """[rows, count] of packed rows, the first of a byte in its lowest bits."""
    rows = stored.reshape(len(stored), -1)
    places = [rows >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return np.stack(places, axis=-1).reshape(len(rows), -1)[:, :count]


def _blocked_matmul(operation: d.BlockedMatMul, x: Array) -> Array:
    weights, (depth, channels) = operation.weights, operation.sizes
    blocks = -(-depth // operation.block)
    codes = _codes(weights.codes.array().reshape(channels, -1), weights.bits, blocks * operation.block)
    zeros = np.full((channels, blocks), 1 << (weights.bits - 1), np.uint8)
    if weights.zero is not None:
        zeros = _codes(weights.zero.array().reshape(channels, -1), weights.bits, blocks)
    bias = np.zeros(channels, np.float32) if operation.bias is None else operation.bias
    scales = weights.scale.array().reshape(channels, blocks)
    rows = product(x.reshape(-1, depth), codes.reshape(channels, blocks, operation.block), scales, zeros, bias)
    return rows.reshape(*x.shape[:-1], channels)


def _heads(rows: Array, heads: int) -> Array:
    """[batch, tokens, heads · size] as [batch, heads, tokens, size]."""
    return rows.reshape(*rows.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _append(operation: d.AppendCache, new: Array, past: Array) -> Array:
    return np.concatenate((past, _heads(new, operation.heads)), axis=2)


def _rotary(operation: d.Rotary, x: Array, cos: Array, sin: Array) -> Array:
    assert not operation.interleaved and not operation.turned  # the kernel's own tests have the others
    heads = x.reshape(*x.shape[:2], operation.heads, -1).astype(np.float64)
    a, b = np.split(heads, 2, axis=-1)
    c, s = cos[:, :, None], sin[:, :, None]
    return np.concatenate((a * c - b * s, a * s + b * c), axis=-1).reshape(x.shape).astype(np.float32)


def _attention(operation: d.CachedAttention, q: Array, keys: Array, values: Array, *mask: Array) -> Array:
    keys, values = (cache.repeat(operation.groups, axis=1).astype(np.float64) for cache in (keys, values))
    scores = _heads(q, operation.heads * operation.groups) @ keys.transpose(0, 1, 3, 2) * operation.scale
    scores = scores + sum(mask)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = (weights / weights.sum(axis=-1, keepdims=True)) @ values
    return y.transpose(0, 2, 1, 3).reshape(*q.shape[:2], -1).astype(np.float32)


LANGUAGE: dict[type, Callable[..., Array]] = {
    d.AppendCache: _append, d.BlockedMatMul: _blocked_matmul, d.CachedAttention: _attention, d.Rotary: _rotary,
}  # fmt: skip
"""The reference of each operation."""
