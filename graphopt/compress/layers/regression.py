"""Normal equations of a layer, summed up sample by sample in bounded memory, and their regularised solution."""

from __future__ import annotations

import numpy as np

from ...ir import Array

_ROWS = 2048  # gathered before they are multiplied: large products are fast, and memory stays bounded
_STIFFNESS = (1.0, 10.0, 100.0)  # of the ridge, that are tried
_LONG = 2048  # inputs beyond which fewer are tried


class Moments:
    """Sums of x xᵀ and x yᵀ over rows [R, g, K] and [R, M], with a one appended to x for the bias; one set a group."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.gram = np.zeros((groups, inputs + 1, inputs + 1))
        self.cross = np.zeros((groups, inputs + 1, outputs // max(groups, 1)))
        self.energy = 0.0
        self.rows = 0
        self._pending: list[tuple[Array, Array]] = []
        self._held = 0

    def add(self, x: Array, y: Array) -> None:
        """Add rows."""
        self._pending.append((x, y))
        self._held += len(x)
        if self._held >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Multiply what was gathered."""
        if not self._pending:
            return
        x = np.concatenate([a for a, _ in self._pending]).astype(np.float32, copy=False)
        y = np.concatenate([b for _, b in self._pending]).astype(np.float32, copy=False)
        self._pending, self._held = [], 0
        rows, groups, _ = x.shape
        ones = np.ones((rows, groups, 1), np.float32)
        wide = np.ascontiguousarray(np.concatenate([x, ones], axis=2).transpose(1, 0, 2))
        target = y.reshape(rows, groups, y.shape[1] // groups).transpose(1, 0, 2)
        self.gram += wide.transpose(0, 2, 1) @ wide
        self.cross += wide.transpose(0, 2, 1) @ target
        self.energy += float(np.square(y, dtype=np.float64).sum())
        self.rows += rows

    def solve(self, start: Array, bias: Array, ridge: float, free_bias: bool = True) -> tuple[Array, Array]:
        """Weight [g, K, M / g] and bias [g, M / g] that minimise |y − W x − b|² + λ |W − start|²; λ is `ridge` of the
        mean energy of an input. Unless `free_bias`, the bias stays."""
        self.flush()
        size = self.gram.shape[1] - 1
        before = np.concatenate([start, bias[:, None, :]], axis=1).astype(np.float64)
        found = np.empty_like(before)
        for group, gram in enumerate(self.gram):
            penalty = np.full(size + 1, ridge * np.trace(gram[:size, :size]) / max(size, 1) + 1e-12)
            penalty[size] = (1e-9 if free_bias else 1e9) * max(self.rows, 1)
            found[group] = _solve(gram, self.cross[group], penalty, before[group])
        return found[:, :size], found[:, size]

    def joined(self, other: Moments) -> Moments:
        """The sums over the rows of both."""
        self.flush()
        other.flush()
        both = Moments(0, 0, 0)
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
    seen: Moments, held: Moments, start: Array, bias: Array, ridge: float, free_bias: bool
) -> tuple[Array, Array] | None:
    """The solution on all rows, as stiff as predicts the `held` rows best from the `seen` ones; None where the old
    weights predict them better than any. Few rows for many inputs would else be learned by heart."""
    before = held.error(start, bias)
    best, chosen = before, None
    for stiffness in _STIFFNESS if start.shape[1] <= _LONG else _STIFFNESS[::2]:
        error = held.error(*seen.solve(start, bias, ridge * stiffness, free_bias))
        if error < best:
            best, chosen = error, ridge * stiffness
    return None if chosen is None else seen.joined(held).solve(start, bias, chosen, free_bias)


def _solve(gram: Array, cross: Array, penalty: Array, before: Array) -> Array:
    from scipy.linalg import LinAlgError, solve

    left = gram.copy()
    left[np.diag_indices_from(left)] += penalty
    try:
        made: Array = solve(
            left, cross + penalty[:, None] * before, assume_a="pos", overwrite_a=True, check_finite=False
        )
    except LinAlgError:  # inputs that never vary, or values beyond what single precision sums hold
        return before
    return made if np.isfinite(made).all() else before
