"""The search for grids of few bits for blocks of weights, many blocks side by side."""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from graphopt.kernels.loops.core.memory import address_of, f32_at

LANES = 64
"""Blocks searched side by side: four vectors of AVX-512, so that no sum waits for the one before."""
PLACES = 16
"""Arrays of `LANES` numbers beside the weights and their costs."""


@register_jitable
def _added(value, weight, inverse, low, high, square, cross):
    q = np.float32(np.rint(np.float32(value * inverse)))
    q = q if q > low else low
    q = q if q < high else high
    t = np.float32(q * weight)
    return np.float32(square + np.float32(q * t)), np.float32(cross + np.float32(t * value))


@register_jitable
def _sums(v, c, block, inverse, low, high, square, cross):
    """Σ c q² and Σ c q v of each lane's block, q being the nearest steps within bounds; the sums are loaded and stored
    once for four steps."""
    for i in range(LANES):
        square[i] = np.float32(0)
        cross[i] = np.float32(0)
    for k in range(0, block, 4):
        row = f32_at(address_of(v) + 4 * LANES * k)
        weight = f32_at(address_of(c) + 4 * LANES * k)
        for i in range(LANES):
            a, b, m, lo, hi = square[i], cross[i], inverse[i], low[i], high[i]
            a, b = _added(row[i], weight[i], m, lo, hi, a, b)
            a, b = _added(row[i + LANES], weight[i + LANES], m, lo, hi, a, b)
            a, b = _added(row[i + 2 * LANES], weight[i + 2 * LANES], m, lo, hi, a, b)
            a, b = _added(row[i + 3 * LANES], weight[i + 3 * LANES], m, lo, hi, a, b)
            square[i] = a
            cross[i] = b


@register_jitable
def _offer(v, c, block, scale, low, high, zero, sums, best_scale, best_zero, best_cost):
    """Keep a grid, its scale refitted, where it costs less than the best so far; costs are compared without Σ c v²:
    −(Σ c q v)² / Σ c q²."""
    inverse = f32_at(address_of(sums))
    square = f32_at(address_of(sums) + 4 * LANES)
    cross = f32_at(address_of(sums) + 8 * LANES)
    for i in range(LANES):
        inverse[i] = np.float32(np.float32(1) / scale[i])
    _sums(v, c, block, inverse, low, high, square, cross)
    for i in range(LANES):
        whole = square[i] if square[i] > np.float32(0) else np.float32(1)
        fitted = np.float32(cross[i] / whole)
        fitted = fitted if abs(fitted) > np.float32(1e-20) else scale[i]
        cost = np.float32(fitted * np.float32(np.float32(fitted * square[i]) - np.float32(np.float32(2) * cross[i])))
        if cost < best_cost[i]:
            best_cost[i] = cost
            best_scale[i] = fitted
            best_zero[i] = zero[i]


@register_jitable
def _error(v, c, block, scale, zero, least, most, cost):
    """Σ c (v − s q)² with v rounded to the nearest step of a grid."""
    for i in range(LANES):
        cost[i] = np.float32(0)
    for k in range(block):
        row = f32_at(address_of(v) + 4 * LANES * k)
        weight = f32_at(address_of(c) + 4 * LANES * k)
        for i in range(LANES):
            q = np.float32(np.rint(np.float32(row[i] * np.float32(np.float32(1) / scale[i]))))
            low = np.float32(least - zero[i])
            high = np.float32(most - zero[i])
            q = q if q > low else low
            q = q if q < high else high
            wrong = np.float32(row[i] - np.float32(q * scale[i]))
            cost[i] = np.float32(cost[i] + np.float32(wrong * np.float32(wrong * weight[i])))


@register_jitable
def _live(scale):
    return scale if abs(scale) > np.float32(1e-20) else np.float32(1)


def search(
    lo, hi, worker, x, cost, count, per_row, block, shares, share_count, most, first_kind, kinds, scale, error,
    zeroed_scale, zero, zeroed_error, scratch, scratch_bytes,
):  # fmt: skip
    """The best symmetric grid and the best with a zero point of each block; a tile is `LANES` of them.

    x: [count, block], `per_row` blocks a row, whose inputs have the costs [per_row, block]. Codes go from −most − 1 to
    most. first_kind, kinds: symmetric grids are kind 0, grids with a zero point kind 1. Results [count] of each kind in
    this range: scale and squared error of the symmetric grid; scale, zero point and squared error of the other.
    """
    v = f32_at(scratch + worker * scratch_bytes)
    c = f32_at(address_of(v) + 4 * LANES * block)
    spare = address_of(c) + 4 * LANES * block
    low, high = f32_at(spare), f32_at(spare + 4 * LANES)
    tried, none, code = f32_at(spare + 8 * LANES), f32_at(spare + 12 * LANES), f32_at(spare + 16 * LANES)
    below, above = f32_at(spare + 20 * LANES), f32_at(spare + 24 * LANES)
    sums = f32_at(spare + 28 * LANES)
    best_scale, best_zero = f32_at(spare + 40 * LANES), f32_at(spare + 44 * LANES)
    best_cost, least_wide = f32_at(spare + 48 * LANES), f32_at(spare + 52 * LANES)
    most_wide = f32_at(spare + 56 * LANES)
    least = np.float32(-most - 1)
    greatest = np.float32(most)
    for tile in range(lo, hi):
        first = tile * LANES
        here = min(LANES, count - first)
        for i in range(LANES):
            low[i] = np.float32(0)
            high[i] = np.float32(0)
            none[i] = np.float32(0)
            least_wide[i] = least
            most_wide[i] = greatest
            source = (first + min(i, here - 1)) * block
            for k in range(block):
                v[k * LANES + i] = x[source + k]
        for i in range(LANES if per_row > 1 or tile == lo else 0):  # one row of costs is the same for all tiles
            place = ((first + min(i, here - 1)) % per_row) * block
            for k in range(block):
                c[k * LANES + i] = cost[place + k]
        for k in range(block):
            row = f32_at(address_of(v) + 4 * LANES * k)
            for i in range(LANES):
                low[i] = row[i] if row[i] < low[i] else low[i]
                high[i] = row[i] if row[i] > high[i] else high[i]
        for kind in range(first_kind, first_kind + kinds):
            for i in range(LANES):
                best_cost[i] = np.float32(np.inf)
            for s in range(share_count):
                share = shares[s]
                if kind == 0:
                    for i in range(LANES):
                        end = -high[i] if high[i] > -low[i] else -low[i]
                        tried[i] = _live(np.float32(np.float32(end / -least) * share))
                    _offer(v, c, block, tried, least_wide, most_wide, none, sums, best_scale, best_zero, best_cost)
                    for i in range(LANES):
                        end = high[i] if high[i] > -low[i] else -low[i]
                        tried[i] = _live(np.float32(np.float32(end / greatest) * share))
                    _offer(v, c, block, tried, least_wide, most_wide, none, sums, best_scale, best_zero, best_cost)
                else:
                    part = np.float32(share / np.float32(greatest - least))
                    for i in range(LANES):
                        tried[i] = _live(np.float32(np.float32(high[i] - low[i]) * part))
                        z = np.float32(np.rint(np.float32(least - np.float32(np.float32(low[i] * share) / tried[i]))))
                        z = z if z > least else least
                        z = z if z < greatest else greatest
                        code[i] = z
                        below[i] = np.float32(least - z)
                        above[i] = np.float32(greatest - z)
                    _offer(v, c, block, tried, below, above, code, sums, best_scale, best_zero, best_cost)
            _error(v, c, block, best_scale, best_zero, least, greatest, best_cost)
            for i in range(here):
                if kind == 0:
                    scale[first + i] = best_scale[i]
                    error[first + i] = best_cost[i]
                else:
                    zeroed_scale[first + i] = best_scale[i]
                    zero[first + i] = np.int8(best_zero[i])
                    zeroed_error[first + i] = best_cost[i]


def nearest(lo, hi, worker, x, count, block, scale, zero, most, codes):
    """The nearest codes of blocks x [count, block] on grids [count], from −most − 1 to most; `LANES` blocks a tile."""
    least = np.float32(-most - 1)
    greatest = np.float32(most)
    for b in range(lo * LANES, min(hi * LANES, count)):
        inverse = np.float32(np.float32(1) / scale[b])
        none = np.float32(zero[b])
        for k in range(b * block, (b + 1) * block):
            q = np.float32(np.float32(np.rint(np.float32(x[k] * inverse))) + none)
            q = q if q > least else least
            q = q if q < greatest else greatest
            codes[k] = np.int8(np.int32(q))
