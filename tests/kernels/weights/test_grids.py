"""The search for grids of blocks against the same search in numpy, block by block and bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.kernels.weights.grids import nearest_codes, search_grids

SHARES = (1.0, 0.9, 0.75)
LEAST = np.float32(1e-20)


def live(scale: np.ndarray) -> np.ndarray:
    return np.where(np.abs(scale) > LEAST, scale, np.float32(1)).astype(np.float32)


def summed(terms: np.ndarray) -> np.ndarray:
    """Sums over a block one after the other, as the kernel adds."""
    total = np.zeros(len(terms), np.float32)
    for column in terms.T:
        total += column
    return total


def steps(x: np.ndarray, scale: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x * (np.float32(1) / scale)[:, None]), low[:, None], high[:, None])


def naive(x: np.ndarray, costs: np.ndarray, bits: int) -> list[np.ndarray]:
    least, most = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    c = np.tile(costs, (len(x) // len(costs), 1))
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    none = np.zeros(len(x), np.float32)
    results = []
    for zeroed in (False, True):
        best = [none, none, np.full(len(x), np.inf, np.float32)]

        def offer(scale: np.ndarray, zero: np.ndarray, best: list[np.ndarray] = best) -> None:
            q = steps(x, scale, least - zero, most - zero)
            t = q * c
            square, cross = summed(q * t), summed(t * x)
            fitted = cross / np.where(square > 0, square, np.float32(1))
            fitted = np.where(np.abs(fitted) > LEAST, fitted, scale).astype(np.float32)
            cost = fitted * (fitted * square - np.float32(2) * cross)
            better = cost < best[2]
            for kept, new in zip(best, (fitted, zero, cost)):
                kept[better] = new[better]

        best[:] = [array.copy() for array in best]
        for share in np.array(SHARES, np.float32):
            if zeroed:
                scale = live((high - low) * np.float32(share / (most - least)))
                offer(scale, np.clip(np.rint(least - low * share / scale), least, most))
            else:
                offer(live(np.where(high > -low, -high, -low).astype(np.float32) / -least * share), none)
                offer(live(np.maximum(high, -low) / most * share), none)
        scale, zero, _ = best
        wrong = x - steps(x, scale, least - zero, most - zero) * scale[:, None]
        results += [scale, *([zero] * zeroed), summed(wrong * (wrong * c))]
    return results


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("blocks", "block", "per_row"), [(1, 16, 1), (64, 32, 4), (130, 32, 5), (66, 128, 2)])
def test_grids(bits: int, blocks: int, block: int, per_row: int) -> None:
    rng = np.random.default_rng(bits)
    x = rng.standard_normal((blocks, block)).astype(np.float32)
    x[blocks // 2] = 0
    x[-1] = np.abs(x[-1])
    costs = rng.uniform(0.1, 3, (per_row, block)).astype(np.float32)
    found = search_grids(x, costs, bits, SHARES, workers=2)
    expected = naive(x, costs, bits)
    given = found.scale, found.error, found.zeroed_scale, found.zero.astype(np.float32), found.zeroed_error
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    wanted = {False: given[:2], True: given[2:]}
    for zeroed, kind in wanted.items():
        alone = search_grids(x, costs, bits, SHARES, zeroed=zeroed)
        names = ("zeroed_scale", "zero", "zeroed_error") if zeroed else ("scale", "error")
        for name, both in zip(names, kind, strict=True):
            np.testing.assert_array_equal(getattr(alone, name), both)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("has_zero", [False, True])
@pytest.mark.parametrize(("blocks", "block"), [(7, 64), (130, 32), (66, 256)])
def test_nearest(bits: int, has_zero: bool, blocks: int, block: int) -> None:
    rng = np.random.default_rng(bits)
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    x = (4 * rng.standard_normal((blocks, block))).astype(np.float32)
    scale = (rng.uniform(0.1, 0.5, blocks) * rng.choice([-1, 1], blocks)).astype(np.float32)
    zero = rng.integers(least, most + 1, blocks).astype(np.int8) if has_zero else np.zeros(blocks, np.int8)
    shifted = np.rint(x * (np.float32(1) / scale)[:, None]) + zero[:, None]
    codes = nearest_codes(x, scale, zero if has_zero else None, bits, workers=2)
    np.testing.assert_array_equal(codes, np.clip(shifted, least, most).astype(np.int8))
    assert {least, most} <= set(np.unique(codes))


def test_no_blocks() -> None:
    assert nearest_codes(np.empty((0, 32), np.float32), np.empty(0, np.float32), None, 4).shape == (0, 32)
    assert search_grids(np.empty((0, 32), np.float32), np.ones((1, 32), np.float32), 4, SHARES).scale.size == 0
