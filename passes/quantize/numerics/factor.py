"""Triangular factors C = M Mᵀ of covariances, from which weights are rounded column by column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....compress.layers.covariance import Covariance, FewRows
from ....ir import Array

BLOCK = 32
"""Columns rounded before their error is spread over the rest by one product. Not tuned finely: 16 to 64 take as long,
the 128 of Frantar et al. 2023 a third more, on 1,536 rows of 576."""


def blocks(depth: int) -> list[slice]:
    """The blocks of K columns, the last first."""
    return [slice(max(0, end - BLOCK), end) for end in range(depth, 0, -BLOCK)]


@dataclass(frozen=True, slots=True)
class WholeFactor:
    """M itself, f32 [K, K]. The state is what each column is owed by those behind it, [K, N]."""

    order: Array
    matrix: Array

    @classmethod
    def of(cls, covariance: Array, diagonal: Array, order: Array) -> WholeFactor | None:
        """The factor of C with this diagonal, found in place in double precision."""
        from scipy.linalg import LinAlgError, cholesky

        wide = np.empty(covariance.shape, np.float64, order="F")
        for column, at in enumerate(order):
            wide[:, column] = covariance[at, order]
        wide[np.diag_indices_from(wide)] = diagonal[order]
        try:
            found = cholesky(wide, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            return None
        matrix = np.ascontiguousarray(found, np.float32)
        return cls(order, matrix) if np.isfinite(matrix).all() else None

    def start(self, count: int) -> Array:
        """The state before any column of N rows is rounded."""
        return np.zeros((len(self.order), count), np.float32)

    def own(self, block: slice) -> Array:
        """M of the columns of a block among themselves, f32 [B, B]."""
        return self.matrix[block, block]

    def owed(self, state: Array, block: slice) -> Array:
        """Σ M[j, i] e_j over the columns j behind a block, for each i of it: f32 [B, N], which may be written to."""
        return np.asarray(state[block])

    def spread(self, state: Array, block: slice, errors: Array) -> None:
        """Take the errors e [B, N] of a block into the state."""
        state[: block.start] += self.matrix[block, : block.start].T @ errors


@dataclass(frozen=True, slots=True)
class FactorOfRows:
    """M of C = XᵀX + λ I by blocks: for columns j behind block b, M[j, b] = x_jᵀ D_b. The state is Σ x_j e_j, [R, N].

    With P_b = (I + X_< X_<ᵀ / λ)⁻¹ over the columns before b: S = λ I + X_bᵀ P_b X_b = L Lᵀ is what their variance
    leaves unexplained, D_b = P_b X_b L⁻ᵀ, and P_b − D_b D_bᵀ is the next P: R × R in place of K × K.
    """

    order: Array
    rows: Array
    across: Array
    within: dict[int, Array]

    @classmethod
    def of(cls, covariance: FewRows, added: np.float32, order: Array) -> FactorOfRows | None:
        """The factor of C with a number added to its diagonal, found in double precision."""
        from scipy.linalg import LinAlgError, cholesky, solve_triangular

        rows = np.ascontiguousarray(covariance.rows[:, order])
        across, within, left = np.empty_like(rows), dict[int, Array](), np.eye(len(rows))
        ridge = float(covariance.ridge) + float(added)
        try:
            for block in reversed(blocks(len(order))):
                x = rows[:, block].astype(np.float64)
                seen = left @ x
                own = cholesky(x.T @ seen + ridge * np.eye(x.shape[1]), lower=True)
                found = solve_triangular(own, seen.T, lower=True).T
                left -= found @ found.T
                across[:, block], within[block.start] = found, own.astype(np.float32)
        except (LinAlgError, ValueError):  # ValueError: not finite
            return None
        return cls(order, rows, across, within)

    def start(self, count: int) -> Array:
        """The state before any column of N rows is rounded."""
        return np.zeros((len(self.rows), count), np.float32)

    def own(self, block: slice) -> Array:
        """M of the columns of a block among themselves, f32 [B, B]."""
        return self.within[block.start]

    def owed(self, state: Array, block: slice) -> Array:
        """Σ M[j, i] e_j over the columns j behind a block, for each i of it: f32 [B, N], which may be written to."""
        return np.asarray(self.across[:, block].T @ state)

    def spread(self, state: Array, block: slice, errors: Array) -> None:
        """Take the errors e [B, N] of a block into the state."""
        state += self.rows[:, block] @ errors


Factor = WholeFactor | FactorOfRows
"""M of P C Pᵀ = M Mᵀ for a permutation P, `order`. The state of N rounded rows is an array of the factor's own."""


def factor_of(covariance: Covariance, added: np.float32) -> Factor | None:
    """The factor of C with a number added to its diagonal, columns of most variance last; None where that is not
    positive definite in double precision, or not finite in single."""
    diagonal = covariance.diagonal() + added
    order = np.argsort(diagonal, kind="stable")
    if isinstance(covariance, FewRows):
        return FactorOfRows.of(covariance, added, order)
    return WholeFactor.of(covariance, diagonal, order)
