"""Muon: steps along the nearest orthogonal matrix to the momentum of each weight matrix, Adam's elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..gradient import AdamW
from ..gradient.tensor import Tensor

_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)  # fmt: skip
"""(a, b, c) of each iteration, by You Jiacheng: five iterations bring singular values from 1e-3 on near 1."""
_SIZE = 0.2
"""The root mean square of a step at rate 1, which is Adam's: rates then suit both (Liu et al. 2025, arXiv
2502.16982)."""
_NARROW, _LONG = 9, 32
"""Weights with so few rows or columns (depthwise kernels of 3 × 3), or one side this many times the other (embeddings),
take Adam's step: they are no maps between spaces, or orthogonalising costs more than the gradient. Reasoned: for
depthwise kernels both steps leave the same error (Fashion CNN, 1,500 steps)."""
_TINY = 1e-12
"""Avoids division by the norm of a zero gradient."""


@dataclass(frozen=True, slots=True)
class Muon(AdamW):
    """m ← β₁ m + (1 − β₁) g; w ← (1 − η λ) w − 0.2 η √max(r, c) O(β₁ m + (1 − β₁) g) for w as a matrix [r, c], O being
    the nearest matrix with orthonormal rows or columns; AdamW for vectors and narrow weights.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers", whose β₁ is 0.95. Convolutions are matrices [outputs,
    the rest].
    """

    betas: tuple[float, float] = (0.95, 0.999)

    def update(
        self, w: Tensor, g: Tensor, state: Sequence[Tensor], scalars: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of one weight: its new value and state."""
        sizes = w.type.sizes
        if sizes is None or not _is_matrix(sizes):
            return AdamW.update(self, w, g, state, scalars[:3])
        rate, kept = scalars[3], scalars[2]
        beta = self.betas[0]
        m = state[0] + (g - state[0]) * (1 - beta)
        rows = sizes[0]
        ahead = (m * beta + g * (1 - beta)).reshape([rows, math.prod(sizes) // rows])
        direction = orthogonal(ahead).reshape(list(sizes))
        step = direction * (_SIZE * math.sqrt(max(ahead.type.sizes or (1,))))
        return w * kept - step * rate, (m, state[1])

    def scalars(self, rate: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Adam's scalars, and the learning rate."""
        return (*AdamW.scalars(self, rate, step), rate)


def _is_matrix(sizes: Sequence[int]) -> bool:
    if len(sizes) < 2 or not all(sizes):
        return False
    rows, columns = sizes[0], math.prod(sizes[1:])
    return min(rows, columns) > _NARROW and max(rows, columns) <= _LONG * min(rows, columns)


def orthogonal(g: Tensor) -> Tensor:
    """U Vᵀ of g = U S Vᵀ, f[r, c], by Newton-Schulz iterations X ← a X + (b X Xᵀ + c (X Xᵀ)²) X, to within a fifth."""
    rows, columns = g.type.sizes or (1, 1)
    x = g if rows <= columns else g.T
    size: Tensor = (x * x).sum().Sqrt() + _TINY
    x = x / size
    for a, b, c in _COEFFICIENTS:
        gram = x @ x.T
        x = x * a + (gram * b + gram @ gram * c) @ x
    return x if rows <= columns else x.T
