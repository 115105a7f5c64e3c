"""Layers of many inputs and few rows: no matrix of the inputs, and the codes and weights of one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from graphopt.compress.layers import moments as moments_of_layers
from graphopt.compress.layers import regression
from graphopt.compress.layers.covariance import FewRows, ridged
from graphopt.compress.layers.moments import InputMoments
from graphopt.compress.layers.regression import NormalEquations, fit
from graphopt.passes.quantize.numerics.rounding import (
    best_codes,
    damped_factor,
    damping,
    nearest,
    objective,
    spread_codes,
)

SIZES = ((70, 9), (333, 40), (640, 100))


def drawn(depth: int, count: int) -> tuple[FewRows, np.ndarray]:
    """The rows, and their covariance as a matrix."""
    rng = np.random.default_rng(depth)
    rows = (rng.standard_normal((count, depth)) * rng.uniform(0.1, 2, depth) / np.sqrt(count)).astype(np.float32)
    return FewRows(rows), rows.T @ rows


@pytest.mark.parametrize(("depth", "count"), SIZES)
def test_a_covariance_of_few_rows_acts_as_its_matrix(depth, count):
    few, matrix = drawn(depth, count)
    few, matrix = ridged(few, np.float32(0.5)), ridged(matrix, np.float32(0.5))
    left = np.random.default_rng(0).standard_normal((5, depth)).astype(np.float32)
    np.testing.assert_allclose(left @ few, left @ matrix, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(few.diagonal(), matrix.diagonal(), rtol=1e-5)
    assert few.trace() == pytest.approx(float(matrix.trace()), rel=1e-5) and len(few) == depth
    for part in ((slice(3, 40), slice(20, 60)), (slice(None), slice(32, 64)), (slice(0, 8), slice(50, None))):
        np.testing.assert_allclose(few[part], matrix[part], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_polished", [False, True])
@pytest.mark.parametrize(("depth", "count"), SIZES)
def test_few_rows_are_rounded_by_as_their_matrix(depth, count, is_polished):
    few, matrix = drawn(depth, count)
    weight = np.random.default_rng(1).standard_normal((20, depth)).astype(np.float32)
    scale = np.broadcast_to(np.abs(weight).max(axis=1, keepdims=True) / 7, weight.shape)
    bounds = np.full(weight.shape, -7, np.int8), np.full(weight.shape, 7, np.int8)
    if is_polished:
        found, expected = (best_codes(weight, scale, *bounds, c) for c in (few, matrix))
    else:
        found, expected = (spread_codes(weight, scale, *bounds, c, damped_factor(c)) for c in (few, matrix))
    costs = [objective(weight - codes * scale, matrix) for codes in (found, expected)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)
    assert costs[0] < 0.1 * objective(weight - nearest(weight, scale, *bounds) * scale, matrix)
    assert damping(few) == pytest.approx(damping(matrix), rel=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_moments_of_few_patches_are_those_of_their_sums(centred, monkeypatch):
    rng = np.random.default_rng(2)
    patches = [(rng.standard_normal((2, count, 90)) + 3).astype(np.float32) for count in (5, 6, 4, 40)]

    def gathered(many: int, parts: int) -> InputMoments:
        monkeypatch.setattr(moments_of_layers, "MANY", many)
        size = 0 if many < 90 else 90
        moments = InputMoments(0, np.zeros((2, 90), np.float32), np.zeros((2, size, size), np.float32))
        for number, part in enumerate(patches[:parts]):
            moments.add(part, 1 + number % 2)
        return moments

    for parts, keeps in ((3, True), (4, False)):
        few, whole = (gathered(many, parts) for many in (32, 90))
        assert bool(few.kept) is keeps and not whole.kept
        for group in range(2):
            found, expected = (moments.covariance_of(group, centred) for moments in (few, whole))
            np.testing.assert_allclose(found[:, :], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(few.mean, whole.mean, rtol=1e-6)


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("rows", [60, 90, 900])
@pytest.mark.parametrize("groups", [1, 2])
def test_rows_are_solved_for_as_their_sums(groups, rows, free_bias, monkeypatch):
    """60 rows are kept, of 90 those held out, of 900 none."""
    monkeypatch.setattr(regression, "MANY", 50)
    monkeypatch.setattr(regression, "_STIFFNESS", (1.0,))
    rng = np.random.default_rng(rows)
    weight, bias = rng.standard_normal((groups, 100, 4)), rng.standard_normal((groups, 4))
    start = weight + 0.3 * rng.standard_normal(weight.shape)
    x = (rng.standard_normal((rows, groups, 100)) + 0.5).astype(np.float32)
    y = (np.einsum("rgk,gkm->rgm", x, weight) + bias).reshape(rows, -1).astype(np.float32)
    train, held_out = (NormalEquations(groups, 100, 4 * groups) for _ in range(2))
    for number, at in enumerate(range(0, rows, 15)):
        (held_out if number % 5 == 3 else train).add(x[at : at + 15], y[at : at + 15])
    both = train.joined(held_out)
    fitted = fit(train, held_out, start, bias, 1e-2, free_bias, is_last=True)
    assert fitted is not None and train.rows == both.rows == rows and held_out.rows == 0
    for group in range(groups):
        whole = np.concatenate([x[:, group], np.ones((rows, 1))], axis=1).astype(np.float64)
        before = np.concatenate([start[group], bias[group, None]])
        off = y.reshape(rows, groups, -1)[:, group] - whole @ before
        ridge = np.full(101, 1e-2 * np.square(whole[:, :-1]).sum() / 100)
        ridge[-1] = 1e-9 if free_bias else 1e12
        after = before + np.linalg.solve(whole.T @ whole + np.diag(ridge), whole.T @ off)
        np.testing.assert_allclose(fitted[0][group], after[:-1], atol=1e-3)
        np.testing.assert_allclose(fitted[1][group], after[-1], atol=1e-2)
    off = np.einsum("rgk,gkm->rgm", x, fitted[0].astype(np.float64)) + fitted[1] - y.reshape(rows, groups, -1)
    share = np.square(off).sum() / np.square(y, dtype=np.float64).sum()
    for sums in (train, both):
        assert sums.error(*fitted) == pytest.approx(share, rel=1e-2, abs=1e-6)
        np.testing.assert_allclose(sums.gram[0][:-1, :-1], x[:, 0].T @ x[:, 0], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("many", [50, 200])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["inputs", "results"])
def test_values_that_are_not_finite_leave_the_weights(place, wrong, many, monkeypatch):
    """By few rows as by their sums."""
    monkeypatch.setattr(regression, "MANY", many)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 1, 100)).astype(np.float32), rng.standard_normal((40, 4)).astype(np.float32)
    (x if place == "inputs" else y)[3, ..., 0] = wrong
    sums, start = NormalEquations(1, 100, 4), rng.standard_normal((1, 100, 4)).astype(np.float32)
    sums.add(x, y)
    weight, bias = sums.solve(start, np.zeros((1, 4)), 1e-3)
    assert np.array_equal(weight, start) and not bias.any()


def test_few_rows_take_no_matrix_of_the_inputs():
    """Sums of 4,096 inputs take 67 MB in single and 134 MB in double precision."""
    rng = np.random.default_rng(0)
    depth, width = 4096, 64
    rows = rng.standard_normal((48, depth)).astype(np.float32)
    weight = rng.standard_normal((width, depth)).astype(np.float32)
    scale = np.broadcast_to(np.abs(weight).max(axis=1, keepdims=True) / 7, weight.shape)
    bounds = np.full(weight.shape, -7, np.int8), np.full(weight.shape, 7, np.int8)
    tracemalloc.start()
    moments = InputMoments(0, np.zeros((1, depth), np.float32), np.zeros((1, 0, 0), np.float32))
    moments.add(rows[None])
    best_codes(weight, scale, *bounds, moments.covariance_of(0, centred=True))
    rounded = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    train, held_out = (NormalEquations(1, depth, width) for _ in range(2))
    train.add(rows[:40, None], rows[:40] @ weight.T)
    held_out.add(rows[40:, None], rows[40:] @ weight.T)
    fit(train, held_out, 0.9 * weight.T[None], np.zeros((1, width)), 1e-3, True, is_last=True)
    refitted = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rounded < 40e6 and refitted < 40e6, (rounded, refitted)
