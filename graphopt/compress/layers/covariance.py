"""The covariance of a layer's inputs: a matrix, or the rows it is made of where these are few for so many inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir import Array


@dataclass(frozen=True, slots=True)
class FewRows:
    """C = XᵀX + λ I [K, K] of rows X f32 [R, K], R well below K: products with it and parts of it, never the whole."""

    rows: Array
    ridge: float = 0.0

    __array_ufunc__ = None
    """With it, `array @ FewRows` is `__rmatmul__`."""

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def __rmatmul__(self, left: Array) -> Array:
        """Y C of Y f32 [N, K]."""
        return np.asarray((left @ self.rows.T) @ self.rows + np.float32(self.ridge) * left)

    def __getitem__(self, part: tuple[slice, slice]) -> Array:
        """A part of C, as of a matrix."""
        found = self.rows[:, part[0]].T @ self.rows[:, part[1]]
        first, second = (range(len(self))[some] for some in part)
        own = np.arange(max(first.start, second.start), min(first.stop, second.stop))
        found[own - first.start, own - second.start] += np.float32(self.ridge)
        return np.asarray(found)

    def diagonal(self) -> Array:
        """The diagonal of C, f32 [K]."""
        return np.asarray(np.einsum("rk,rk->k", self.rows, self.rows) + np.float32(self.ridge))

    def trace(self) -> float:
        """The sum of the diagonal."""
        return float(self.diagonal().sum(dtype=np.float64))


Covariance = Array | FewRows
"""C f32 [K, K]: `@` from the left, parts, `diagonal()`, `trace()` and `len` serve for both."""


def ridged(covariance: Covariance, added: np.float32) -> Covariance:
    """C with a number added to its diagonal: of a matrix a copy, which is 0.1 GB for 5,760 inputs."""
    if isinstance(covariance, FewRows):
        return FewRows(covariance.rows, covariance.ridge + float(added))
    ridged = covariance.copy()
    ridged.reshape(-1)[:: len(covariance) + 1] += added
    return ridged
