"""Normal equations of a layer, summed up sample by sample in bounded memory, and their regularised solution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...ir import Array
from .moments import MANY, add_gram, mirror

_ROWS = 2048
"""Rows buffered before one Gram product: large products are fast, and memory stays bounded. A choice;
`python -m tests.bench.prune_speed time` shows its effect."""
_STIFFNESS = (1.0, 10.0, 100.0)
"""Multiples of the ridge, a decade apart: the grid of validation on held-out rows.
`python -m tests.bench.prune_fashion` shows the accuracy, with fewer images where refits overfit."""
_LONG = 2048
"""Inputs beyond which every other multiple is tried: a solution costs K³. `python -m tests.bench.prune_speed time`."""
_COLUMNS = 1 << 24
"""Bytes of a layer's weights in double precision at a time, of which a solution holds some five: 16 MB, 80 outputs of
VGG-19's 25,088 inputs."""


class NormalEquations:
    """Sums of x xᵀ and x yᵀ over rows [R, g, K] and [R, M], with a one appended to x for the bias; one set a group.

    In float64, from float32 products of a few thousand rows each (`InputMoments` says why the two differ). Of many
    inputs (`MANY`) the rows themselves are kept while they are half the inputs at most: they take a quarter of the
    memory of the sums, and few rows are solved for in their own space, R × R in place of K × K.
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.inputs, self.energy, self.rows = inputs, 0.0, 0
        self._shape = groups, inputs + 1, outputs // max(groups, 1)
        self._sums: tuple[Array, Array] | None = None
        self._kept: list[tuple[Array, Array]] = []

    @property
    def gram(self) -> Array:
        """f64 [g, K + 1, K + 1]: Σ x xᵀ."""
        return self._summed()[0]

    @property
    def cross(self) -> Array:
        """f64 [g, K + 1, M / g]: Σ x yᵀ."""
        return self._summed()[1]

    def add(self, x: Array, y: Array) -> None:
        """Add rows x [R, g, K] and y [R, M]."""
        x, y = (np.asarray(array, np.float32) for array in (x, y))
        self.energy += float(np.square(y, dtype=np.float64).sum())
        self.rows += len(x)
        self._kept.append((x, y))
        if not self._keeps_rows and sum(len(kept) for kept, _ in self._kept) >= _ROWS:
            self._summed()

    @property
    def _keeps_rows(self) -> bool:
        return self._sums is None and self.inputs > MANY and 2 * self.rows <= self.inputs

    @property
    def is_ample(self) -> bool:
        """Whether more rows would not be kept: these suffice to judge a fit."""
        return self.inputs > MANY and 2 * self.rows >= self.inputs - 1

    def _summed(self) -> tuple[Array, Array]:
        """The sums, with the rows kept so far multiplied into them."""
        groups, size, outputs = self._shape
        if self._sums is None:
            self._sums = np.zeros((groups, size, size)), np.zeros((groups, size, outputs))
        gram, cross = self._sums
        for x, y in self._portions():
            wide = np.ascontiguousarray(np.concatenate([x, np.ones((len(x), groups, 1), np.float32)], axis=2))
            wide = np.ascontiguousarray(wide.transpose(1, 0, 2))
            add_gram(gram, wide)
            cross += wide.transpose(0, 2, 1) @ y.reshape(len(y), groups, outputs).transpose(1, 0, 2)
        self._kept = []
        return self._sums

    def _portions(self) -> Iterator[tuple[Array, Array]]:
        """The kept rows, joined to some thousand each."""
        part, rows = list[tuple[Array, Array]](), 0
        for number, pair in enumerate(self._kept):
            part.append(pair)
            rows += len(pair[0])
            if rows >= _ROWS or number + 1 == len(self._kept):
                x, y = (np.concatenate(arrays) for arrays in zip(*part))
                yield x, y
                part, rows = [], 0

    def solve(self, start: Array, bias: Array, ridge: float, free_bias: bool = True) -> tuple[Array, Array]:
        """Weight f32 [g, K, M / g] and bias [g, M / g] that minimise |y − W x − b|² + λ |W − start|²; λ is `ridge`
        times the mean energy of an input. Unless `free_bias`, the bias stays."""
        weight, found = np.array(start, np.float32), np.array(bias, np.float64)
        if self._keeps_rows:
            self._solve_by_rows(weight, found, ridge, free_bias)
            return weight, found
        gram, cross = self._summed()
        rows, size = max(self.rows, 1), self.inputs
        for group, left in enumerate(gram):
            penalty = np.full(size + 1, ridge * np.trace(left[:size, :size]) / max(size, 1) + 1e-12 * rows)
            penalty[size] = (1e-9 if free_bias else 1e9) * rows
            _solve(left, cross[group], penalty, weight[group], found[group])
        return weight, found

    def _solve_by_rows(self, weight: Array, bias: Array, ridge: float, free_bias: bool) -> None:
        """Solve in place for few rows: W = start + Xᵀ (X Xᵀ + λ)⁻¹ (Y − X start), rows less their mean for the bias."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        if not self.rows:
            return
        groups = self._shape[0]
        y = _by_group(np.concatenate([y for _, y in self._kept]), groups)
        for group, wanted in enumerate(y):
            apart = np.concatenate([x[:, group] for x, _ in self._kept], dtype=np.float64)
            penalty = ridge * float(np.einsum("rk,rk->", apart, apart)) / self.inputs + 1e-12 * self.rows
            mean = apart.mean(axis=0) if free_bias else np.zeros(self.inputs)
            apart -= mean
            left = apart @ apart.T
            left[np.diag_indices_from(left)] += penalty
            try:
                factors = cho_factor(left, overwrite_a=True, check_finite=False)
            except LinAlgError:  # values that are not finite
                continue
            for part in _columns(self.inputs, weight.shape[2]):
                before = weight[group, :, part].astype(np.float64)
                aim = wanted[:, part].astype(np.float64)
                level = aim.mean(axis=0) if free_bias else bias[group, part]
                off = aim - level - apart @ before
                after = before + apart.T @ cho_solve(factors, off, overwrite_b=True, check_finite=False)
                if np.isfinite(after).all():
                    weight[group, :, part], bias[group, part] = after, level - mean @ after

    def joined(self, other: NormalEquations) -> NormalEquations:
        """The sums over the rows of both."""
        both = NormalEquations(self._shape[0], self.inputs, self._shape[0] * self._shape[2])
        both._kept = [*self._kept]
        both._sums = None if self._sums is None else (self._sums[0].copy(), self._sums[1].copy())
        both.energy, both.rows = self.energy, self.rows
        both._take(other)
        return both

    def absorb(self, other: NormalEquations) -> NormalEquations:
        """These sums with those of `other`, which is empty then: no third set is in memory."""
        self._take(other)
        other._kept, other._sums, other.energy, other.rows = [], None, 0.0, 0
        return self

    def _take(self, other: NormalEquations) -> None:
        self.energy, self.rows = self.energy + other.energy, self.rows + other.rows
        self._kept += other._kept
        if other._sums is not None:
            for own, more in zip(self._summed(), other._sums):
                own += more

    def error(self, weight: Array, bias: Array) -> float:
        """|y − W x − b|² as a share of |y|²."""
        if not self._keeps_rows:
            self._summed()
        square = 0.0 if self._sums is None else self.energy
        groups, _, outputs = self._shape
        for group in range(groups):
            for part in _columns(self.inputs, outputs):
                whole = np.concatenate([weight[group, :, part], bias[group, None, part]]).astype(np.float64)
                if self._sums is not None:
                    gram, cross = self._sums
                    square += float(np.einsum("km,km->", whole, gram[group] @ whole - 2.0 * cross[group, :, part]))
                    continue
                for x, y in self._kept:
                    off = _by_group(y, groups)[group][:, part] - x[:, group] @ whole[:-1] - whole[-1]
                    square += float(np.einsum("rm,rm->", off, off))
        return max(square, 0.0) / max(self.energy, 1e-30)


def _by_group(y: Array, groups: int) -> Array:
    """Results [R, M] as [g, R, M / g]."""
    return np.asarray(y.reshape(len(y), groups, y.shape[1] // max(groups, 1)).transpose(1, 0, 2))


def _columns(inputs: int, outputs: int) -> Iterator[slice]:
    """Outputs in parts whose float64 columns take `_COLUMNS` bytes."""
    step = max(1, _COLUMNS // (8 * (inputs + 1)))
    yield from (slice(at, min(at + step, outputs)) for at in range(0, outputs, step))


def fit(
    train: NormalEquations, holdout: NormalEquations, start: Array, bias: Array, ridge: float, free_bias: bool,
    is_rough: bool = False, is_last: bool = False,
) -> tuple[Array, Array] | None:  # fmt: skip
    """The solution on all rows, with the multiple of the ridge whose solution on `train` predicts `holdout` best.

    None where the old weights predict `holdout` best: few rows for many inputs would overfit. is_rough: try the middle
    multiple alone, and return its solution on `train`. is_last: `train` then absorbs `holdout`.
    """
    best, chosen = holdout.error(start, bias), None
    if is_rough:
        found = train.solve(start, bias, ridge * _STIFFNESS[1], free_bias)
        return found if holdout.error(*found) < best else None
    for stiffness in _STIFFNESS if start.shape[1] <= _LONG else _STIFFNESS[::2]:
        error = holdout.error(*train.solve(start, bias, ridge * stiffness, free_bias))
        if error < best:
            best, chosen = error, ridge * stiffness
    if chosen is None:
        return None
    whole = train.absorb(holdout) if is_last else train.joined(holdout)
    return whole.solve(start, bias, chosen, free_bias)


def _solve(left: Array, cross: Array, penalty: Array, weight: Array, bias: Array) -> None:
    """Solve in place for weight [K, M] and bias [M] by Cholesky factors alone: the condition estimate of
    `scipy.linalg.solve` takes four times as long. The factor takes one triangle of `left` for a while."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    diagonal = left.diagonal().copy()
    left[np.diag_indices_from(left)] += penalty
    try:
        factors = cho_factor(left.T, overwrite_a=True, check_finite=False)
        for part in _columns(len(weight), len(bias)):
            before = np.concatenate([weight[:, part], bias[None, part]]).astype(np.float64)
            wanted = cross[:, part] + penalty[:, None] * before
            solution = cho_solve(factors, wanted, overwrite_b=True, check_finite=False)
            if np.isfinite(solution).all():
                weight[:, part], bias[part] = solution[:-1], solution[-1]
    except LinAlgError:  # constant inputs, or sums beyond single precision
        pass
    finally:
        mirror(left)
        left[np.diag_indices_from(left)] = diagonal
