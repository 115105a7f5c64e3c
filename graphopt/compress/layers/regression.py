"""Normal equations of a layer, summed up sample by sample in bounded memory, and their regularised solution."""

from __future__ import annotations

import numpy as np

from ...ir import Array
from .moments import gram

_ROWS = 2048
"""Rows buffered before one Gram product: large products are fast, and memory stays bounded. A choice;
`python -m tests.bench.prune_speed time` shows its effect."""
_STIFFNESS = (1.0, 10.0, 100.0)
"""Multiples of the ridge, a decade apart: the grid of validation on held-out rows.
`python -m tests.bench.prune_fashion` shows the accuracy, with fewer images where refits overfit."""
_LONG = 2048
"""Inputs beyond which every other multiple is tried: a solution costs K³. `python -m tests.bench.prune_speed time`."""


class NormalEquations:
    """Sums of x xᵀ and x yᵀ over rows [R, g, K] and [R, M], with a one appended to x for the bias; one set a group.

    In float64, from float32 products of a few thousand rows each (`InputMoments` says why the two differ).
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.gram = np.zeros((groups, inputs + 1, inputs + 1))
        self.cross = np.zeros((groups, inputs + 1, outputs // max(groups, 1)))
        self.energy = 0.0
        self.rows = 0
        self._pending: list[tuple[Array, Array]] = []
        self._pending_rows = 0

    def add(self, x: Array, y: Array) -> None:
        """Add rows x [R, g, K] and y [R, M]."""
        self._pending.append((x, y))
        self._pending_rows += len(x)
        if self._pending_rows >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Multiply the rows gathered so far into the sums."""
        if not self._pending:
            return
        x = np.concatenate([a for a, _ in self._pending]).astype(np.float32, copy=False)
        y = np.concatenate([b for _, b in self._pending]).astype(np.float32, copy=False)
        self._pending, self._pending_rows = [], 0
        rows, groups, _ = x.shape
        ones = np.ones((rows, groups, 1), np.float32)
        wide = np.ascontiguousarray(np.concatenate([x, ones], axis=2).transpose(1, 0, 2))
        target = y.reshape(rows, groups, y.shape[1] // groups).transpose(1, 0, 2)
        self.gram += gram(wide)
        self.cross += wide.transpose(0, 2, 1) @ target
        self.energy += float(np.square(y, dtype=np.float64).sum())
        self.rows += rows

    def solve(self, start: Array, bias: Array, ridge: float, free_bias: bool = True) -> tuple[Array, Array]:
        """Weight [g, K, M / g] and bias [g, M / g] that minimise |y − W x − b|² + λ |W − start|²; λ is `ridge` times
        the mean energy of an input. Unless `free_bias`, the bias stays."""
        self.flush()
        size = self.gram.shape[1] - 1
        before = np.concatenate([start, bias[:, None, :]], axis=1).astype(np.float64)
        solved = np.empty_like(before)
        for group, left in enumerate(self.gram):
            rows = max(self.rows, 1)
            penalty = np.full(size + 1, ridge * np.trace(left[:size, :size]) / max(size, 1) + 1e-12 * rows)
            penalty[size] = (1e-9 if free_bias else 1e9) * rows
            solved[group] = _solve(left, self.cross[group], penalty, before[group])
        return solved[:, :size], solved[:, size]

    def joined(self, other: NormalEquations) -> NormalEquations:
        """The sums over the rows of both."""
        self.flush()
        other.flush()
        both = NormalEquations(0, 0, 0)
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        both.energy, both.rows = self.energy + other.energy, self.rows + other.rows
        return both

    def error(self, weight: Array, bias: Array) -> float:
        """|y − W x − b|² as a share of |y|²."""
        self.flush()
        whole = np.concatenate([weight, bias[:, None, :]], axis=1).astype(np.float64)
        square = float(np.einsum("gkm,gkm->", whole, self.gram @ whole - 2.0 * self.cross)) + self.energy
        return max(square, 0.0) / max(self.energy, 1e-30)


def fit(
    train: NormalEquations, holdout: NormalEquations, start: Array, bias: Array, ridge: float, free_bias: bool,
    is_rough: bool = False,
) -> tuple[Array, Array] | None:  # fmt: skip
    """The solution on all rows, with the multiple of the ridge whose solution on `train` predicts `holdout` best.

    None where the old weights predict `holdout` best: few rows for many inputs would overfit. is_rough: try the middle
    multiple alone, and return its solution on `train`.
    """
    best, chosen = holdout.error(start, bias), None
    if is_rough:
        found = train.solve(start, bias, ridge * _STIFFNESS[1], free_bias)
        return found if holdout.error(*found) < best else None
    for stiffness in _STIFFNESS if start.shape[1] <= _LONG else _STIFFNESS[::2]:
        error = holdout.error(*train.solve(start, bias, ridge * stiffness, free_bias))
        if error < best:
            best, chosen = error, ridge * stiffness
    return None if chosen is None else train.joined(holdout).solve(start, bias, chosen, free_bias)


def _solve(left: Array, cross: Array, penalty: Array, before: Array) -> Array:
    """Solve by Cholesky factors alone: the condition estimate of `scipy.linalg.solve` takes four times as long."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    left = left.copy()
    left[np.diag_indices_from(left)] += penalty
    try:
        factors = cho_factor(left, overwrite_a=True, check_finite=False)
    except LinAlgError:  # constant inputs, or sums beyond single precision
        return before
    solution: Array = cho_solve(factors, cross + penalty[:, None] * before, overwrite_b=True, check_finite=False)
    return solution if np.isfinite(solution).all() else before
