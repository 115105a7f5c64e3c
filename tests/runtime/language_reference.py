"""The semantics of a language model's operations in plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.runtime.lower.decoders import operations as d
from graphopt.runtime.lower.decoders.stored import StoredBlocks
from tests.kernels.products.test_blocked_matmul import product

Array = np.ndarray[Any, Any]


def _codes(stored: Array, bits: int, count: int) -> Array:
    """[rows, count] of packed rows, the first of a byte in its lowest bits."""
    rows = stored.reshape(len(stored), -1)
    places = [rows >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return np.stack(places, axis=-1).reshape(len(rows), -1)[:, :count]


def _packed(weights: StoredBlocks, blocks: int) -> tuple[Array, Array, Array]:
    """Codes [N, blocks, block], scales and zero points [N, blocks] of a MatMulNBits."""
    count = weights.channels
    codes = _codes(weights.codes.array().reshape(count, -1), weights.bits, blocks * weights.block)
    zeros = np.full((count, blocks), 1 << (weights.bits - 1), np.uint8)
    if weights.zero is not None:
        zeros = _codes(weights.zero.array().reshape(count, -1), weights.bits, blocks)
    return codes.reshape(count, blocks, -1), weights.scale.array().reshape(count, blocks), zeros


def _dequantized(weights: StoredBlocks, blocks: int) -> tuple[Array, Array, Array]:
    """The same of a DequantizeLinear of codes [K, N], or [N, K] behind which a Transpose stands."""

    def by_block(stored: Array) -> Array:
        rows = stored.T if stored.ndim == 2 else stored.reshape(-1, 1)
        return np.broadcast_to(rows, (weights.channels, blocks))

    stored = weights.codes.array() if weights.transposed else weights.codes.array().T
    codes = np.zeros((weights.channels, blocks * weights.block), np.int64)
    codes[:, : weights.depth] = stored
    zeros = np.zeros((1, 1), np.int64) if weights.zero is None else weights.zero.array().astype(np.int64)
    return codes.reshape(weights.channels, blocks, -1), by_block(weights.scale.array()), by_block(zeros)


def _blocked_matmul(operation: d.BlockedMatMul, x: Array) -> Array:
    weights, (depth, channels) = operation.weights, operation.sizes
    parts = (_packed if weights.by_column else _dequantized)(weights, -(-depth // operation.block))
    bias = np.zeros(channels, np.float32) if operation.bias is None else operation.bias
    return product(x.reshape(-1, depth), *parts, bias).reshape(*x.shape[:-1], channels)


def _heads(rows: Array, heads: int) -> Array:
    """[batch, tokens, heads · size] as [batch, heads, tokens, size]."""
    return rows.reshape(*rows.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _append(operation: d.AppendCache, new: Array, past: Array) -> Array:
    return np.concatenate((past, _heads(new, operation.heads)), axis=2)


def _rotary(operation: d.Rotary, x: Array, cos: Array, sin: Array) -> Array:
    heads = x.reshape(*x.shape[:2], operation.heads, -1).astype(np.float64)
    count = operation.turned or heads.shape[-1]
    turned = heads[..., :count]
    a, b = (turned[..., ::2], turned[..., 1::2]) if operation.interleaved else np.split(turned, 2, axis=-1)
    c, s = cos[:, :, None], sin[:, :, None]
    pair = a * c - b * s, a * s + b * c
    made = np.stack(pair, axis=-1).reshape(turned.shape) if operation.interleaved else np.concatenate(pair, axis=-1)
    return np.concatenate((made, heads[..., count:]), axis=-1).reshape(x.shape).astype(np.float32)


def _attention(operation: d.CachedAttention, q: Array, keys: Array, values: Array, *mask: Array) -> Array:
    keys, values = (cache.repeat(operation.groups, axis=1).astype(np.float64) for cache in (keys, values))
    scores = _heads(q, operation.heads * operation.groups) @ keys.transpose(0, 1, 3, 2) * operation.scale
    scores = scores + sum(mask)
    top = scores.max(axis=-1, keepdims=True)
    seen = top > np.finfo(np.float32).min  # a row without any key gives zeros
    weights = np.where(seen, np.exp(scores - np.where(seen, top, 0)), 0)
    y = (weights / np.where(seen, weights.sum(axis=-1, keepdims=True), 1)) @ values
    return y.transpose(0, 2, 1, 3).reshape(*q.shape[:2], -1).astype(np.float32)


LANGUAGE: dict[type, Callable[..., Array]] = {
    d.AppendCache: _append, d.BlockedMatMul: _blocked_matmul, d.CachedAttention: _attention, d.Rotary: _rotary,
}  # fmt: skip
"""The reference of each operation."""
